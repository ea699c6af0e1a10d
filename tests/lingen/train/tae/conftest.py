"""Videos of soft coloured blobs that drift: compressible, but not by one colour."""

import dataclasses
import functools

import numpy as np
import pytest


def blobs(seed: int, frames: int = 12) -> np.ndarray:
    """A video, uint8 (T, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[0:32, 0:32]
    video = np.zeros((frames, 32, 32, 3))
    for _ in range(3):
        (x, y), (u, v), colour = rng.uniform(4, 28, 2), rng.uniform(-0.5, 0.5, 2), rng.uniform(80, 255, 3)
        for t in range(frames):
            near = np.exp(-((xx - x - u * t) ** 2 + (yy - y - v * t) ** 2) / 60)
            video[t] += near[..., None] * colour
    return video.clip(0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Segments: functions that read a video or an image each."""

    videos: list
    images: list
    held_out: list


@pytest.fixture(scope="session")
def pixels() -> Pixels:
    return Pixels(
        [functools.partial(blobs, seed) for seed in range(12)],
        [functools.partial(blobs, seed, frames=1) for seed in range(20, 24)],
        [functools.partial(blobs, seed) for seed in range(30, 33)],
    )
