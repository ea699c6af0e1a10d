"""Encoded folders of random content, written by the real writers: for tests, benchmarks and new machines."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lingen.data import shards
from lingen.data.buckets import Bucket
from lingen.data.index_file import INDEX, LatentFormat, TextFormat, write_index
from lingen.data.provenance import Provenance, sample_key
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
    """Write random latents and text embeddings; equal arguments give equal bytes.

    Args:
        folder: where to.
        counts: bucket name -> number of samples.
        per_shard: samples in a tar.
        dtype: float16, bfloat16 or float32.
        encoders: name, digest and width of each text encoder, sorted by name.
        tae_digest: of the TAE that the latents claim to come from.
        clip_ids: of the samples of every bucket; None: made up, and not like a hash.
        tokens: lengths that captions take in turn.

    Returns:
        The folder.
    """
    generator = torch.Generator().manual_seed(0)
    for name, count in counts.items():
        bucket = Bucket.parse(name)
        clips = [clip_ids[i] if clip_ids else f"{name.split('_')[0]}{i:08x}" for i in range(count)]
        samples = _random_samples(bucket, clips, [dim for _, _, dim in encoders], tokens, generator)
        trees = ["latents", *(f"text/{encoder}" for encoder, _, _ in encoders)]
        rows: list[list[dict[str, Any]]] = [[] for _ in trees]
        for first in range(0, count, per_shard):
            paths = [folder / tree / name / f"{first // per_shard:06d}.tar" for tree in trees]
            for tree_rows, new in zip(rows, _write_shard(paths, islice(samples, per_shard), dtype, tae_digest)):
                tree_rows += new
        latent_form = LatentFormat(
            bucket=name,
            resolution=64,
            fps=16.0,
            dtype=dtype,
            tae_digest=tae_digest,
            scale=[1.0] * 16,
            shift=[0.0] * 16,
        )
        forms: list[LatentFormat | TextFormat] = [latent_form]
        forms += [
            TextFormat(bucket=name, dtype=dtype, name=encoder, model=encoder, digest=digest, dim=dim)
            for encoder, digest, dim in encoders
        ]
        for tree, tree_rows, form in zip(trees, rows, forms):
            write_index(folder / tree / name / INDEX, tree_rows, form)
    return folder


def write_random_encoding(folder: Path, counts: Mapping[str, int], per_shard: int = 64) -> Path:
    """Write a finished output folder like that of jobs/encode.py, with random latents and a small untrained TAE.

    jobs/train.py can train the demo's stages on it.

    Args:
        folder: where to.
        counts: bucket name -> number of samples.
        per_shard: samples in a tar.

    Returns:
        The folder.
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


@dataclasses.dataclass(frozen=True)
class _Sample:
    source: Provenance
    latent_CTHW: torch.Tensor
    text_LD: list[torch.Tensor]
    """per encoder"""


def _random_samples(
    bucket: Bucket, clips: Sequence[str], dims: Sequence[int], tokens: Sequence[int], generator: torch.Generator
) -> Iterator[_Sample]:
    """One sample per clip, with a text embedding per width in `dims`."""
    for i, clip in enumerate(clips):
        source = Provenance(
            clip_id=clip,
            uri=f"/clips/{clip}.mp4",
            caption=f"caption {i}",
            license="CC-BY-4.0",
            source="test",
            attribution="nobody",
            bucket=bucket.name,
            start_s=0.0,
            end_s=bucket.frames / 16,
            fps=16.0,
            source_width=640,
            source_height=480,
        )
        latent_CTHW = torch.randn(bucket.latent_shape(), generator=generator)
        lengths = [tokens[(i + j) % len(tokens)] for j in range(len(dims))]
        text_LD = [torch.randn(length, dim, generator=generator) for length, dim in zip(lengths, dims)]
        yield _Sample(source, latent_CTHW, text_LD)


def _write_shard(
    paths: Sequence[Path], samples: Iterator[_Sample], dtype: str, tae_digest: str
) -> list[list[dict[str, Any]]]:
    """Write the tars of one shard, latents first; the index rows of each."""
    rows: list[list[dict[str, Any]]] = [[] for _ in paths]
    with contextlib.ExitStack() as stack:
        latents, *texts = [stack.enter_context(shards.ShardWriter(path)) for path in paths]
        for sample in samples:
            source, key = sample.source, sample_key(sample.source.clip_id, 0)
            latent = latents.add(key, shards.LATENT, shards.pack_latent(sample.latent_CTHW, dtype))
            metadata = latents.add(key, shards.METADATA, shards.pack_metadata(source, tae_digest))
            location = {"key": key, "shard": paths[0].name}
            facts = {
                "clip_id": source.clip_id,
                "license": source.license,
                "source": source.source,
                "seconds": source.end_s,
                "shape": list(sample.latent_CTHW.shape),
                "canary_psnr": None,
            }
            rows[0].append(location | facts | latent.columns() | metadata.columns("metadata_"))
            for tar, text_rows, embedding_LD in zip(texts, rows[1:], sample.text_LD):
                text = tar.add(key, shards.TEXT, shards.pack_text(embedding_LD, dtype))
                text_rows.append(location | text.columns() | {"length": len(embedding_LD)})
    return rows
