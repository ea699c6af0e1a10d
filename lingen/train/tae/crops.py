"""Random crops of segments of pixels; a crop is a function of (seed, step, place in the global batch).

Legend: B samples of this rank, T frames, H/W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lingen.train.tae.config import TAEFitConfig

Segments = Sequence[Callable[[], np.ndarray]]
"""functions that read a segment each, uint8 (T, H, W, 3); an image is a segment of one frame"""


@dataclasses.dataclass(frozen=True)
class Crops:
    """The training data: segments of videos and of images; a step takes all its crops from one of the two."""

    config: TAEFitConfig
    videos: Segments
    images: Segments

    def batch(self, step: int, rank: int, world_size: int) -> Tensor:
        """This rank's share of a step's global batch, (B, 3, T, H, W) in [-1, 1]."""
        return torch.stack([self._at(step, place) for place in range(rank, self.config.batch_size, world_size)])

    def _at(self, step: int, place: int) -> Tensor:
        draw = np.random.default_rng([self.config.seed, step])
        use_images = bool(self.images) and (not self.videos or draw.random() < self.config.image_share)
        segments = self.images if use_images else self.videos
        rng = np.random.default_rng([self.config.seed, step, place])
        return to_tensor(cut(segments[int(rng.integers(len(segments)))](), self.config, rng))


def first_crops(segments: Segments, config: TAEFitConfig, limit: int = 128) -> Tensor:
    """Crops of at most `limit` segments, evenly spread, (B, 3, T, H, W) in [-1, 1]; they do not depend on a step."""
    crops = [
        cut(read(), config, np.random.default_rng([config.seed, i])) for i, read in enumerate(spread(segments, limit))
    ]
    return torch.stack([to_tensor(crop) for crop in crops])


def cut(segment_THW3: np.ndarray, config: TAEFitConfig, rng: np.random.Generator) -> np.ndarray:
    """A random cut of config.frames frames (fewer in a shorter segment), config.crop pixels square, maybe mirrored."""
    frames, height, width = segment_THW3.shape[:3]
    length = min(config.frames, frames)
    t = rng.integers(frames - length + 1)
    side_h, side_w = min(config.crop, height), min(config.crop, width)
    y, x = rng.integers(height - side_h + 1), rng.integers(width - side_w + 1)
    crop = segment_THW3[t : t + length, y : y + side_h, x : x + side_w]
    if crop.shape[1:3] != (config.crop, config.crop):  # a wide bucket is lower than the square crop: mirror its edge
        pad = ((0, 0), (0, config.crop - side_h), (0, config.crop - side_w), (0, 0))
        crop = np.pad(crop, pad, mode="symmetric")
    return crop[:, :, ::-1] if rng.random() < 0.5 else crop


def spread(segments: Segments, limit: int) -> Segments:
    """At most `limit` of the segments, evenly spread."""
    return segments[:: max(1, len(segments) // limit)][:limit]


def to_tensor(segment_THW3: np.ndarray) -> Tensor:
    """uint8 pixels as (3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(segment_THW3)).permute(3, 0, 1, 2).float() / 127.5 - 1
