"""Describe the contents of a shard, an index, an encoded folder or a single sample as text, and decode samples.

Legend: N frames, H/W pixels; C/t/h/w axes of a latent.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lingen.data.buckets import Bucket
from lingen.data.index_file import INDEX, read_index
from lingen.data.shard_index import BucketIndex, ShardIndex
from lingen.data.shards import (
    LATENT,
    METADATA,
    TEXT,
    DamagedSample,
    checksum,
    read_shard,
    unpack_latent,
    unpack_metadata,
    unpack_text,
)
from lingen.io.progress import length
from lingen.tae.diffusers import DiffusersTAE
from lingen.tae.tae import TAE


@dataclasses.dataclass(frozen=True)
class LatentSample:
    """A latent that can be decoded."""

    key: str
    bucket: Bucket
    latent_Cthw: torch.Tensor
    metadata: dict[str, Any]
    """The JSON member."""


def show_folder(folder: Path) -> Iterator[str]:
    """Describe an encoded folder: TAE and text encoders, and a line per bucket."""
    index = ShardIndex.open(folder)
    yield f"{folder}: {len(index)} samples"
    yield f"TAE {index.format.tae_digest}, {index.format.dtype}, {index.format.fps:g} fps"
    for form in index.text_format:
        yield f"text {form.name}: {form.model}, {form.digest}, {form.dim} wide"
    for name, bucket in index.buckets.items():
        hours = sum(bucket.table["seconds"].to_pylist()) / 3600
        yield f"  {name}: {len(bucket)} samples, {length(hours)}"


def show_index(path: Path, limit: int) -> Iterator[str]:
    """Describe one index.parquet: its format, totals, licences, and the first `limit` rows."""
    table, form = read_index(path)
    for name, value in dataclasses.asdict(form).items():
        yield f"{name}: {value}"
    yield f"samples: {len(table)} in {len(set(table['shard'].to_pylist()))} shards"
    if "license" in table.column_names:
        yield "licences: " + ", ".join(f"{k} {n}" for k, n in Counter(table["license"].to_pylist()).most_common())
        canaries = [psnr for psnr in table["canary_psnr"].to_pylist() if psnr is not None]
        if canaries:
            yield f"canaries: {len(canaries)}, {min(canaries):.1f} to {max(canaries):.1f} dB"
    for row in table.slice(0, limit).to_pylist():
        shape = f"shape {row['shape']}" if "shape" in row else f"{row['length']} tokens"
        yield f"  {row['key']}  {row['shard']} @ {row['offset']} + {row['size']}  {shape}"
    if len(table) > limit:
        yield f"  ... and {len(table) - limit} more (--limit)"


def show_shard(path: Path, limit: int) -> Iterator[str]:
    """Describe one tar: its first members, all checked against the index in its folder if there is one."""
    known = _checksums(path)
    keys: set[str] = set()
    damaged: list[str] = []
    lines: list[str] = []
    count = 0
    for key, kind, data in read_shard(path):
        count += 1
        keys.add(key)
        if known.get((key, kind)) not in (None, checksum(data)):
            damaged.append(f"{key}.{kind}")
        if len(lines) < 2 * limit:
            lines.append(f"  {key}.{kind}  {_describe(kind, data)}")
    yield f"{path}: {len(keys)} samples, {path.stat().st_size / 1e6:.2f} MB"
    differ = f"checksums: {len(damaged)} of {count} members differ from {INDEX}"
    yield differ if known else f"checksums: not checked, there is no {INDEX} in its folder"
    yield from (f"  DAMAGED {name}" for name in damaged[:limit])
    yield from lines


def show_sample(bucket: BucketIndex, row: int) -> Iterator[str]:
    """Describe one sample: metadata, latent statistics, text, canary."""
    latent, text = bucket.read(row)
    yield f"{bucket.key(row)} in {bucket.bucket.name}, row {row}"
    for name, value in bucket.metadata(row).items():
        yield f"  {name}: {value}"
    values = latent.float()
    yield f"  latent: {list(latent.shape)} {str(latent.dtype)[6:]}, mean {values.mean():.3f}, std {values.std():.3f}"
    for form, tokens in zip(bucket.text_format, text):
        yield f"  text {form.name}: {list(tokens.shape)} {str(tokens.dtype)[6:]} of {form.model}"
    canary = bucket.table["canary_psnr"][row].as_py()
    if canary is not None:
        yield f"  canary: {canary:.1f} dB"


def find_key(index: ShardIndex, key: str) -> list[tuple[BucketIndex, int]]:
    """Find every bucket and row with a key; clips that are encoded at two resolutions have two.

    Raises:
        ValueError: no bucket has it.
    """
    found: list[tuple[BucketIndex, int]] = []
    for bucket in index.buckets.values():
        with contextlib.suppress(KeyError):
            found.append((bucket, bucket.row(key)))
    if not found:
        raise ValueError(
            f"key {key!r} is not in {index.folder}; list the keys with jobs/show.py {index.folder}/latents/BUCKET"
        )
    return found


def first_samples(path: Path, count: int) -> list[LatentSample]:
    """Read the first `count` samples of a latent tar, or of a bucket's latent index.

    Raises:
        ValueError: the shards hold no latents.
    """
    if path.name == INDEX:
        table, _ = read_index(path)
        tars = dict.fromkeys(path.parent / shard for shard in table["shard"].to_pylist())
        return list(islice(chain.from_iterable(map(_read_shard, tars)), count))
    return list(islice(_read_shard(path), count))


def read_sample(bucket: BucketIndex, row: int) -> LatentSample:
    """Read the sample in a row of a bucket."""
    return LatentSample(bucket.key(row), bucket.bucket, bucket.read(row)[0], bucket.metadata(row))


@torch.inference_mode()
def decode_sample(sample: LatentSample, tae: TAE | DiffusersTAE) -> np.ndarray:
    """Decode a sample to frames, uint8 (N, H, W, 3).

    Raises:
        ValueError: the latent was made by another TAE.
    """
    from lingen.tae.frames import decoded_frames

    if sample.metadata["tae_digest"] != tae.digest:
        raise ValueError(
            f"--tae: {sample.key} was encoded by TAE {sample.metadata['tae_digest']}, but this one is {tae.digest}"
        )
    return np.concatenate(list(decoded_frames(tae, sample.latent_Cthw, sample.bucket.frames)))


def contact_sheet(frames_NHW3: np.ndarray, columns: int = 8) -> np.ndarray:
    """Arrange frames, evenly spaced in time, as one picture of at most 4 rows, uint8 (height, width, 3)."""
    from lingen.io.video import frame_grid

    picks = np.linspace(0, len(frames_NHW3) - 1, min(len(frames_NHW3), 4 * columns)).round().astype(int)
    rows = [frames_NHW3[picks[i : i + columns]] for i in range(0, len(picks), columns)]
    return frame_grid(rows, columns=columns)


def _read_shard(path: Path) -> Iterator[LatentSample]:
    """The samples of a latent tar."""
    latents: dict[str, torch.Tensor] = {}
    found = False
    try:
        for key, kind, data in read_shard(path):
            if kind == LATENT:
                latents = {key: unpack_latent(data)}  # the members of a key are neighbours
            elif kind == METADATA and key in latents:
                metadata, found = unpack_metadata(data), True
                yield LatentSample(key, Bucket.parse(metadata["bucket"]), latents.pop(key), metadata)
    except DamagedSample as damage:
        raise ValueError(f"{path}: {key}: {damage}") from None
    if not found:
        raise ValueError(f"--decode: {path} holds no latents; name a tar below latents/")


def _checksums(path: Path) -> dict[tuple[str, str], str]:
    """(key, extension) -> checksum of a shard's members, from the index in its folder."""
    index = path.parent / INDEX
    if not index.is_file():
        return {}
    found = {}
    for row in read_index(index)[0].to_pylist():
        if row["shard"] == path.name:
            if "metadata_checksum" in row:
                found[row["key"], LATENT] = row["checksum"]
                found[row["key"], METADATA] = row["metadata_checksum"]
            else:
                found[row["key"], TEXT] = row["checksum"]
    return found


def _describe(kind: str, data: bytes) -> str:
    """A member in a few words."""
    try:
        if kind == METADATA:
            metadata = unpack_metadata(data)
            return f"{metadata['license']}: {metadata['caption'][:80]!r}"
        tensor = unpack_latent(data) if kind == LATENT else unpack_text(data)
    except DamagedSample as damage:
        return str(damage)
    return f"{list(tensor.shape)} {str(tensor.dtype)[6:]}"
