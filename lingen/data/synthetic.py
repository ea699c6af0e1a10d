"""Encoded folders of random content, written by the real writers: for tests, benchmarks and new machines."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lingen.data import shards
from lingen.data.buckets import Bucket
from lingen.data.shard_index import INDEX, LatentFormat, TextFormat, write_index
from lingen.io.manifest import OutputFolder, file_digest
from lingen.tae.config import TAEConfig
from lingen.tae.pretrained import save_tae
from lingen.tae.tae import TAE
from lingen.text.encoders import TextEncoderConfig, build_text_encoder

DIGEST = "0123456789abcdef"


def write_random_latents(
    folder: Path,
    counts: Mapping[str, int],
    per_shard: int = 4,
    dtype: str = "float16",
    encoders: Sequence[tuple[str, str, int]] = (("encoder_0", "0", 8),),
    tae_digest: str = DIGEST,
    clip_ids: Sequence[str] | None = None,
    tokens: Sequence[int] = (3, 4, 5, 6),
) -> Path:
    """Latents and text embeddings of so many samples per bucket name; equal arguments give equal bytes.

    Args: encoders, name, digest and width of each text encoder, sorted by name; clip_ids, of every bucket's samples
        (default: made up, and like no hash); tokens, lengths that captions take in turns.
    """
    generator = torch.Generator().manual_seed(0)
    for name, count in counts.items():
        bucket = Bucket.parse(name)
        rows, text_rows = [], [[] for _ in encoders]
        for first in range(0, count, per_shard):
            shard = f"{first // per_shard:06d}.tar"
            with contextlib.ExitStack() as open_tars:
                latents = open_tars.enter_context(shards.ShardWriter(folder / "latents" / name / shard))
                tars = [shards.ShardWriter(folder / "text" / encoder / name / shard) for encoder, _, _ in encoders]
                texts = [open_tars.enter_context(tar) for tar in tars]
                for i in range(first, min(first + per_shard, count)):
                    clip = clip_ids[i] if clip_ids else f"{name.split('_')[0]}{i:08x}"
                    key = shards.sample_key(clip, 0)
                    source = shards.Provenance(
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
                    a = latents.add(key, shards.LATENT, shards.pack_latent(latent, dtype))
                    b = latents.add(key, shards.METADATA, shards.pack_metadata(source, tae_digest))
                    where = {"key": key, "shard": shard}
                    facts = {"clip_id": clip, "license": "CC-BY-4.0", "source": "test", "canary_psnr": None}
                    facts |= {"seconds": bucket.frames / 16, "shape": list(latent.shape)}
                    rows.append(where | facts | a.columns() | b.columns("metadata_"))
                    for j, (_, _, dim) in enumerate(encoders):
                        embedding = torch.randn(tokens[(i + j) % len(tokens)], dim, generator=generator)
                        c = texts[j].add(key, shards.TEXT, shards.pack_text(embedding, dtype))
                        text_rows[j].append(where | c.columns() | {"length": len(embedding)})
        unit = {"scale": [1.0] * 16, "shift": [0.0] * 16}
        form = LatentFormat(bucket=name, resolution=64, fps=16.0, dtype=dtype, tae_digest=tae_digest, **unit)
        write_index(folder / "latents" / name / INDEX, rows, form)
        for (encoder, digest, dim), of_encoder in zip(encoders, text_rows):
            text_form = TextFormat(bucket=name, dtype=dtype, name=encoder, model=encoder, digest=digest, dim=dim)
            write_index(folder / "text" / encoder / name / INDEX, of_encoder, text_form)
    return folder


def write_random_encoding(folder: Path, counts: Mapping[str, int], per_shard: int = 64) -> Path:
    """A finished output folder as jobs/encode.py leaves it, of random latents and a small untrained TAE.

    jobs/train.py trains the demo's stages on it.
    """
    encoder = build_text_encoder(TextEncoderConfig(model="lingen-tiny"))
    output = OutputFolder.open(folder, "encode", {"text": ["lingen-tiny"]}, {})
    torch.manual_seed(0)
    tae = TAE(TAEConfig(channels=(8, 8, 16, 16), blocks=1, decoder_blocks=1))
    save_tae(tae, folder / "tae")
    encoders = [("lingen-tiny", encoder.digest, encoder.dim)]
    write_random_latents(folder, counts, per_shard, encoders=encoders, tae_digest=tae.digest)
    indexes = sorted(folder.rglob(INDEX))
    output.publish({str(path.relative_to(folder)): file_digest(path) for path in indexes})
    return folder
