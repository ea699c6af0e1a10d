"""The five pre-training stages of the paper, as data.

Steps, batch and GPU-days: SUP Table 5. Frames, height and width: read off the project page's video files (16 fps); the
paper names the stages by 256p and 512p only.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the progressive recipe; pixels and frames of the videos (frames = 1: images)."""

    name: str
    frames: int
    height: int
    width: int
    steps: int
    batch: int
    h100_days: int
    fps: int = 16

    @property
    def seconds(self) -> float:
        """Length of a video; 0 for images."""
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
