"""The training stages as data: the paper's five, its quality tuning, and the same in miniature for the demo.

The five stages: steps, batch and GPU-days are from SUP Table 5; frames, height and width are read off the project
page's video files (16 fps), since the paper names the stages only by 256p and 512p. Quality tuning: clips and lengths
are from SUP E.3.3 (512p, 3,000 clips of 17 s, 300 of 68 s); steps and batch are unpublished, these are ours.
"""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the progressive recipe, with its videos in frames and pixels (frames = 1: images)."""

    name: str
    frames: int
    height: int
    width: int
    steps: int
    batch: int
    h100_days: int | None = None
    quality_clips: int = 0
    """number of reviewed clips to train on; 0: train on everything"""
    fps: int = 16

    @property
    def resolution(self) -> int:
        """The number in the stage's name, 256 for t2v_256p_17s; frames have about resolution squared pixels."""
        match = re.search(r"_(\d+)p", self.name)
        assert match, self.name
        return int(match[1])

    @property
    def seconds(self) -> float:
        """Length of a video in seconds; 0 for images."""
        return 0.0 if self.frames == 1 else self.frames / self.fps

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(T, H, W) of the TAE's latents: 8x in time, 8x8 in space (SUP E.1)."""
        return -(-self.frames // 8), self.height // 8, self.width // 8


STAGES: tuple[Stage, ...] = (
    Stage(name="t2i_256p", frames=1, height=256, width=256, steps=118_000, batch=8192, h100_days=1189),
    Stage(name="t2v_256p_17s", frames=272, height=192, width=352, steps=125_000, batch=1024, h100_days=1919),
    Stage(name="t2v_512p_17s", frames=272, height=384, width=704, steps=32_000, batch=512, h100_days=2598),
    Stage(name="t2v_512p_34s", frames=544, height=384, width=704, steps=14_000, batch=512, h100_days=2392),
    Stage(name="t2v_512p_68s", frames=1088, height=384, width=704, steps=6_000, batch=256, h100_days=1307),
)

TUNING_STAGES: tuple[Stage, ...] = (
    Stage(name="tune_512p_17s", frames=272, height=384, width=704, steps=1000, batch=64, quality_clips=3000),
    Stage(name="tune_512p_68s", frames=1088, height=384, width=704, steps=300, batch=16, quality_clips=300),
)

# Like the paper's in small: images, then short videos, then larger, twice as long and four times as long ones. Most
# steps are where a step is cheap and what is learnt carries over.
DEMO_STAGES: tuple[Stage, ...] = (
    Stage(name="demo_t2i_64p", frames=1, height=64, width=64, steps=100, batch=16),
    Stage(name="demo_t2v_64p_1s", frames=16, height=64, width=64, steps=2000, batch=16),
    Stage(name="demo_t2v_96p_1s", frames=16, height=96, width=96, steps=150, batch=8),
    Stage(name="demo_t2v_96p_2s", frames=32, height=96, width=96, steps=100, batch=8),
    Stage(name="demo_t2v_96p_4s", frames=64, height=96, width=96, steps=80, batch=8),
    Stage(name="demo_tune_96p_4s", frames=64, height=96, width=96, steps=20, batch=4, quality_clips=150),
)

ALL_STAGES = {stage.name: stage for stage in (*STAGES, *TUNING_STAGES, *DEMO_STAGES)}
