"""An encoded folder of random latents, written by the real writers (what jobs/encode.py does with a TAE's)."""

import pytest
import torch

from lingen.buckets import Bucket
from lingen.shard_index import LatentFormat, TextFormat, write_index
from lingen.shards import (
    LATENT,
    METADATA,
    TEXT,
    Provenance,
    ShardWriter,
    pack_latent,
    pack_metadata,
    pack_text,
    sample_key,
)


@pytest.fixture
def make_shards(tmp_path):
    """make_shards({"image_64x64": 5, "video_48x80_17f": 9}, per_shard=4) -> folder of so many samples per bucket."""

    def make(counts, per_shard=4, folder=tmp_path / "encoded", dtype="float16", dims=(8, 6)):
        generator = torch.Generator().manual_seed(0)
        for name, count in counts.items():
            bucket = Bucket.parse(name)
            rows, text_rows = [], []
            for first in range(0, count, per_shard):
                shard = f"{first // per_shard:06d}.tar"
                with (
                    ShardWriter(folder / "latents" / name / shard) as latents,
                    ShardWriter(folder / "text" / name / shard) as text,
                ):
                    for i in range(first, min(first + per_shard, count)):
                        clip = f"{name.split('_')[0]}{i:08x}"
                        key = sample_key(clip, 0)
                        source = Provenance(
                            clip_id=clip,
                            uri=f"/clips/{clip}.mp4",
                            caption=f"caption {i}",
                            license="CC-BY-4.0",
                            source="test",
                            attribution="nobody",
                            bucket=name,
                            start_s=0.0,
                            end_s=bucket.frames / 16,
                            fps=16.0,
                            source_width=640,
                            source_height=480,
                        )
                        latent = torch.randn(bucket.latent_shape(), generator=generator)
                        a = latents.add(key, LATENT, pack_latent(latent, dtype))
                        b = latents.add(key, METADATA, pack_metadata(source, "0123456789abcdef"))
                        lengths = [3 + (i + j) % 4 for j in range(len(dims))]
                        embeddings = [torch.randn(n, d, generator=generator) for n, d in zip(lengths, dims)]
                        c = text.add(key, TEXT, pack_text(embeddings, dtype))
                        where = {"key": key, "shard": shard}
                        facts = {"clip_id": clip, "license": "CC-BY-4.0", "source": "test", "canary_psnr": None}
                        facts |= {"seconds": bucket.frames / 16, "shape": list(latent.shape)}
                        rows.append(where | facts | a.columns() | b.columns("metadata_"))
                        text_rows.append(where | c.columns() | {"lengths": lengths})
            form = LatentFormat(
                bucket=name,
                resolution=64,
                fps=16.0,
                dtype=dtype,
                tae_digest="0123456789abcdef",
                scale=[1.0] * 16,
                shift=[0.0] * 16,
            )
            names = [f"encoder {j}" for j in range(len(dims))]
            write_index(folder / "latents" / name / "index.parquet", rows, form)
            text_form = TextFormat(bucket=name, dtype=dtype, names=names, digests=names, dims=list(dims))
            write_index(folder / "text" / name / "index.parquet", text_rows, text_form)
        return folder

    return make
