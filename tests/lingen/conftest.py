"""An encoded folder of random latents, written by the real writers (what jobs/encode.py does with a TAE's)."""

import pytest

from lingen.data.synthetic import write_random_latents


@pytest.fixture
def make_shards(tmp_path):
    """make_shards({"image_64x64": 5, "video_48x80_17f": 9}, per_shard=4) -> folder of so many samples per bucket."""

    def make(counts, per_shard=4, folder=tmp_path / "encoded", dtype="float16", dims=(8, 6), clip_ids=None):
        encoders = [(f"encoder_{j}", f"{j}", dim) for j, dim in enumerate(dims)]
        return write_random_latents(folder, counts, per_shard, dtype, encoders, clip_ids=clip_ids)

    return make
