"""What a stage reads and writes: samples needed and there, and the storage of latents, text and checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lingen.data.buckets import Bucket
from lingen.data.mixture import build_mixture, parse_ratio
from lingen.train.config import FitConfig

IMAGES, VIDEOS = "images", "videos"
STORED_BYTES = 2
"""of a number in a latent or text embedding (float16)"""
CHECKPOINT_BYTES = 16
"""of a parameter in a checkpoint: weight, average, and AdamW's two moments, in float32"""
EXPORT_BYTES = 8
"""of a parameter in a finished model: weight and average, in float32"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supply:
    """The samples of one bucket, or of one medium when there are no shards yet."""

    name: str
    needed: int
    """samples that training reads, each as often as it is read"""
    there: int | None
    """samples to train on; None: unknown"""
    hours_needed: float
    """0 for images"""
    hours_there: float | None

    @property
    def passes(self) -> float | None:
        """How often training sees every sample; None where their number is unknown."""
        return self.needed / self.there if self.there else None


def supplies(fit: FitConfig, bucket: Bucket, fps: float, there: Mapping[str, int] | None = None) -> list[Supply]:
    """What a stage needs beside what is there.

    Args:
        fit: steps, batch size and image ratio count.
        bucket: a bucket of the stage; its medium and length count.
        fps: of the videos.
        there: samples to train on by bucket, or by medium (IMAGES, VIDEOS); None: unknown.

    Raises:
        ValueError: what is there cannot be mixed as `fit` asks.
    """
    samples, ratio = fit.steps * fit.batch_size, parse_ratio(fit.image_ratio)
    if there is None or there.keys() <= {IMAGES, VIDEOS}:
        images = samples if bucket.frames == 1 else round(samples * ratio / (1 + ratio))
        needed = {IMAGES: images, VIDEOS: samples - images}
        counts = {name: None if there is None else there.get(name, 0) for name in needed}
        frames = {IMAGES: 1, VIDEOS: bucket.frames}
        return [_supply(n, count, counts[n], frames[n], fps) for n, count in needed.items() if count]
    shares = build_mixture(there, ratio, "samples", "--shards").shares()
    return [_supply(n, round(samples * s), there[n], Bucket.parse(n).frames, fps) for n, s in shares.items()]


def _supply(name: str, needed: int, there: int | None, frames: int, fps: float) -> Supply:
    hours = 0.0 if frames == 1 else frames / fps / 3600
    hours_there = None if there is None else there * hours
    return Supply(name=name, needed=needed, there=there, hours_needed=needed * hours, hours_there=hours_there)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """Bytes on disk."""

    latent: int
    """of one sample"""
    text: int
    """of one sample, a caption of full length"""
    checkpoint: int
    """of one; `checkpoints` are there at a time"""
    checkpoints: int
    export: int

    def samples(self, count: int) -> int:
        """Bytes of so many samples, latents and text."""
        return count * (self.latent + self.text)


def storage(
    fit: FitConfig, parameters: int, latent_shape: Sequence[int], channels: int, text: Sequence[tuple[int, int]]
) -> Storage:
    """What a stage takes on disk.

    Args:
        fit: which checkpoints are kept.
        parameters: of the model.
        latent_shape: latent axes (T, H, W).
        channels: of the latents.
        text: (tokens, width) of every text encoder.
    """
    T, H, W = latent_shape
    kept = fit.keep_checkpoints + 1  # the oldest is removed when the newest is complete
    return Storage(
        latent=STORED_BYTES * channels * T * H * W,
        text=STORED_BYTES * sum(tokens * width for tokens, width in text),
        checkpoint=CHECKPOINT_BYTES * parameters,
        checkpoints=kept + (fit.steps // fit.keep_every if fit.keep_every else 0),
        export=EXPORT_BYTES * parameters,
    )
