"""Configuration of jobs/encode.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from data_prep.encode.pool import EncodeWorkers
from data_prep.encode.texts import Encoders
from lingen.io.manifest import to_plain
from lingen.model.stages import ALL_STAGES
from lingen.tae.tiling import TilingConfig
from lingen.text.encoders import parse_text_encoders


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Encode curated clips into shards of latents and text embeddings."""

    curated: Path
    """Output folder of jobs/curate.py."""
    output: Path
    """Folder for the shards."""
    tae: Path
    """Folder of a TAE checkpoint (jobs/train_tae.py), or diffusers:PATH_OR_HUB_NAME[#subfolder] for a public one."""
    stages: tuple[str, ...] = ()
    """Stages to encode for (t2v_256p_17s ...); they set resolutions and lengths."""
    resolution: int = 256
    """A frame has about resolution squared pixels; a multiple of 16."""
    frames: tuple[int, ...] = (272,)
    """Lengths of the video samples, in frames."""
    images: bool = True
    """Encode images too (video stages train on both)."""
    fps: float = 16.0
    """Frames per second that videos are sampled at."""
    aspect_ratios: tuple[str, ...] = ("1:1", "16:9", "9:16", "4:3", "3:4")
    """Aspect ratios, width:height; each clip is cropped about its centre to the nearest."""
    max_windows_per_clip: int = 4
    """Most samples of one clip at each length."""
    serve_shorter: bool = False
    """Cut the whole clip at every length it can fill; otherwise shorter samples come from what longer ones leave."""
    max_upscale: float = 1.25
    """Leave out clips that would have to be enlarged more than this."""
    text: Encoders = ("ViT-B-32",)
    """Text encoders for the captions. ENCODER is [NAME=]MODEL[,OPTION=VALUE ...]: lingen-tiny, or
    clip=ViT-L-14,pretrained=WEIGHTS byt5=google/byt5-small,family=t5. Options: pretrained, family, max_tokens, seed."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Storage dtype of latents and text embeddings."""
    shard_mb: float = 256.0
    """Size of a shard in megabytes."""
    canaries: int = 2
    """Samples per shard that are decoded again as a check; their PSNR is in the index."""
    min_psnr: float = 15.0
    """Warn of canaries below this PSNR in dB (or 10 dB below their bucket's median)."""
    batch_frames: int = 64
    """Short segments are encoded in batches of up to this many frames."""
    tiling: TilingConfig = dataclasses.field(default_factory=TilingConfig)
    """How segments go through the TAE piece by piece."""
    decode_cpus: float = 0.5
    """CPUs reserved per process that reads frames."""
    decode_timeout_s: float = 600.0
    """Seconds to wait for the frames of a segment before it becomes an error row."""
    workers: EncodeWorkers = dataclasses.field(default_factory=EncodeWorkers)
    """The encoding workers."""
    overwrite: bool = False
    """Replace a folder made with other settings."""

    def __post_init__(self):
        parse_text_encoders(self.text)
        for name in self.stages:
            if name not in ALL_STAGES:
                raise ValueError(f"--stages: {name!r} is unknown; use {', '.join(ALL_STAGES)}")
        if not self.stages and not self.images and not self.frames:
            raise ValueError("--frames: nothing to encode without frames and images; give a length or --images")
        for field in ("fps", "max_windows_per_clip", "max_upscale", "shard_mb", "decode_timeout_s"):
            if getattr(self, field) <= 0:
                raise ValueError(f"--{field.replace('_', '-')}: must be greater than 0, got {getattr(self, field)}")
        if min(self.frames, default=2) < 2:
            raise ValueError(f"--frames: {min(self.frames)} is not the length of a video; use --images for images")
        if not self.aspect_ratios:
            raise ValueError("--aspect-ratios: give at least one, such as 16:9")

    def lengths(self) -> dict[int, set[int]]:
        """Resolution -> wanted lengths in frames (1: images)."""
        images = {1} if self.images else set()
        if not self.stages:
            return {self.resolution: set(self.frames) | images}
        lengths: dict[int, set[int]] = {}
        for stage in (ALL_STAGES[name] for name in self.stages):
            lengths.setdefault(stage.resolution, set(images)).add(stage.frames)
        return lengths

    def content(self) -> dict[str, Any]:
        """The settings that decide the output's content: all but paths and resources."""
        skip = {"curated", "output", "tae", "workers", "overwrite", "decode_cpus", "tiling"}
        return {k: v for k, v in to_plain(self).items() if k not in skip}
