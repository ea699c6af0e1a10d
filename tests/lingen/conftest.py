"""Encoded folders of random latents, written by the real writers (as jobs/encode.py writes those of a TAE)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from lingen.data.shard_index import ShardIndex
from lingen.data.synthetic import write_random_latents


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Path]:
    """make_shards({"image_64x64": 5, "video_48x80_17f": 9}, per_shard=4) -> folder with so many samples per bucket."""

    def make(
        counts: Mapping[str, int],
        per_shard: int = 4,
        folder: Path = tmp_path / "encoded",
        dtype: str = "float16",
        dims: Sequence[int] = (8, 6),
        clip_ids: Sequence[str] | None = None,
    ) -> Path:
        encoders = [(f"encoder_{j}", f"{j}", dim) for j, dim in enumerate(dims)]
        return write_random_latents(folder, counts, per_shard, dtype, encoders, clip_ids=clip_ids)

    return make


@pytest.fixture
def file_hashes() -> list[str]:
    """Content hashes of 32 files, spread evenly."""
    return [f"{i:02x}{'5a' * 15}" for i in range(0, 256, 8)]


@pytest.fixture
def clip_ids(file_hashes: list[str]) -> list[str]:
    """Two clips of every file."""
    return [f"{h}-{start}-{start + 1000}" for h in file_hashes for start in (0, 1000)]


@pytest.fixture
def shards(make_shards: Callable[..., Path], clip_ids: list[str]) -> ShardIndex:
    """Images and videos of these clips."""
    return ShardIndex.open(make_shards({"image_64x64": 64, "video_64x64_16f": 64}, clip_ids=clip_ids))
