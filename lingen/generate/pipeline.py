"""From a prompt to a video: text encoder, sampler, TAE, mp4. Needs torch and open_clip, but no Ray."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import torch

from lingen.data.buckets import Bucket, bucket_size, parse_aspect_ratio
from lingen.generate.generator import Generator
from lingen.generate.sampler import SamplerConfig
from lingen.io.manifest import check_writable, write_atomic
from lingen.io.progress import Progress
from lingen.io.video import write_mp4
from lingen.model.pretrained import model_folder, read_about
from lingen.tae.frames import decoded_frames
from lingen.tae.tiling import TilingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generate a video (or a picture) from a prompt with a trained model."""

    checkpoint: Path
    """output folder of a finished jobs/train.py, or its model folder"""
    output: Path
    """where the video goes: .mp4, or .png for a picture (its first frame)"""
    prompt: str | None = None
    """what the video shows; default: the first sample prompt of the model's training"""
    seconds: float | None = None
    """length; default: that of the model's last stage"""
    aspect_ratio: str | None = None
    """width:height, such as 16:9; default: the most frequent one in the model's last stage"""
    resolution: int | None = None
    """area is resolution squared; default: that of the model's last stage"""
    seed: int = 0
    """seed of the noise: the same seed, prompt and settings give the same video"""
    weights: str = "ema"
    """averaged weights (ema) or the last ones (raw)"""
    sampler: SamplerConfig = dataclasses.field(default_factory=SamplerConfig)
    """how the video is sampled"""
    tiling: TilingConfig = dataclasses.field(default_factory=TilingConfig)
    """how the latent is decoded piece by piece"""
    device: str | None = None
    """cpu or cuda; default: cuda if available"""

    def __post_init__(self):
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("--prompt: is empty; describe the video")
        if self.output.suffix not in (".mp4", ".png"):
            raise ValueError(f"--output: {self.output} must end in .mp4 or .png")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"--seconds: must be more than 0, got {self.seconds}")
        if self.weights not in ("ema", "raw"):
            raise ValueError(f"--weights: {self.weights} is unknown; use ema or raw")
        if self.resolution is not None and (self.resolution < 16 or self.resolution % 16):
            raise ValueError(f"--resolution: must be a multiple of 16, got {self.resolution}")


@dataclasses.dataclass(frozen=True)
class Generated:
    """A generated video."""

    path: Path
    prompt: str
    frames: int
    height: int
    width: int
    fps: float
    text_encoder: str
    """Names of the model's text encoders."""


def generate(config: GenerateConfig) -> Generated:
    """Generate and write one video.

    Raises:
        ValueError: there is no model at `checkpoint`, or a text encoder differs from the one it was trained with.
        OSError: the output cannot be written; known before any work.
    """
    about = read_about(model_folder(config.checkpoint))
    size = frames, height, width = _size(config, about)
    check_writable(config.output)
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    generator = Generator(config.checkpoint, config.weights, device)
    prompt = config.prompt or about["prompts"][0]
    progress = Progress("sample", config.sampler.steps, unit="steps")
    latents = generator.latents(
        [prompt], [config.seed], size, config.sampler, lambda done: progress.update(done - progress.done)
    )
    progress.close()
    pieces = decoded_frames(generator.tae, latents[0], frames, config.tiling)
    if config.output.suffix == ".png":
        from PIL import Image

        png = io.BytesIO()
        Image.fromarray(next(pieces)[0]).save(png, format="PNG")
        write_atomic(config.output, png.getvalue())
    else:
        write_mp4(config.output, pieces, about["fps"])
    return Generated(config.output, prompt, frames, height, width, about["fps"], generator.text_encoders)


def _size(config: GenerateConfig, about: dict[str, Any]) -> tuple[int, int, int]:
    """(frames, height, width) as requested; by default those of the model's last stage."""
    trained = Bucket.parse(about["bucket"])
    frames = trained.frames if config.seconds is None else max(1, round(config.seconds * about["fps"]))
    if config.output.suffix == ".png":
        frames = 1
    if config.aspect_ratio is None and config.resolution is None:
        return frames, trained.height, trained.width
    ratio = trained.aspect_ratio if config.aspect_ratio is None else parse_aspect_ratio(config.aspect_ratio)
    return frames, *bucket_size(config.resolution or about["resolution"], ratio)
