"""What is in a shard, an index, an encoded folder or behind a key: as text, and decoded to be looked at."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lingen.data.buckets import Bucket
from lingen.data.shard_index import INDEX, BucketIndex, ShardIndex, read_index
from lingen.data.shards import LATENT, METADATA, TEXT, checksum, list_shard, unpack_latent, unpack_text


@dataclasses.dataclass(frozen=True)
class Sample:
    """A latent (C,T,H,W) that can be decoded, with its json member."""

    key: str
    bucket: Bucket
    latent_CTHW: torch.Tensor
    metadata: dict


def show_folder(folder: Path) -> Iterator[str]:
    """An encoded folder: what made it, and a line per bucket."""
    index = ShardIndex.open(folder)
    yield f"{folder}: {len(index)} samples"
    yield f"TAE {index.format.tae_digest}, {index.format.dtype}, {index.format.fps:g} fps"
    for form in index.text_format:
        yield f"text {form.name}: {form.model}, {form.digest}, {form.dim} wide"
    for name, bucket in index.buckets.items():
        hours = sum(bucket.table["seconds"].to_pylist()) / 3600
        yield f"  {name}: {len(bucket)} samples, {hours:.3f} h"


def show_index(path: Path, limit: int) -> Iterator[str]:
    """One index.parquet: its format, totals, licences, and the first rows."""
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
    """One tar: its members, checked against the index beside it when there is one."""
    known = _checksums(path)
    members = list_shard(path)
    yield f"{path}: {len({key for key, _, _ in members})} samples, {path.stat().st_size / 1e6:.2f} MB"
    damaged = [
        f"{key}.{kind}" for key, kind, data in members if known.get((key, kind), checksum(data)) != checksum(data)
    ]
    yield (
        f"checksums: {len(damaged)} of {len(members)} members differ from {INDEX}" if known else f"no {INDEX} beside it"
    )
    for name in damaged[:limit]:
        yield f"  DAMAGED {name}"
    for key, kind, data in members[: 2 * limit]:
        yield f"  {key}.{kind}  {_describe(kind, data)}"


def show_sample(bucket: BucketIndex, row: int) -> Iterator[str]:
    """One sample: metadata, latent statistics, text."""
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


def find_key(index: ShardIndex, key: str) -> tuple[BucketIndex, int]:
    """The bucket and row of a key. ValueError when no bucket has it."""
    for bucket in index.buckets.values():
        try:
            return bucket, bucket.row(key)
        except KeyError:
            continue
    raise ValueError(
        f"key {key!r} is not in {index.folder}; list the keys with jobs/show.py {index.folder}/latents/BUCKET"
    )


def samples_of(path: Path, count: int) -> list[Sample]:
    """The first samples of a latent tar, or of the latent index of a bucket."""
    if path.name == INDEX:
        table, _ = read_index(path)
        tars = dict.fromkeys(path.parent / shard for shard in table["shard"].to_pylist())
        found = [s for tar in list(tars)[:count] for s in _samples_of_shard(tar)]
        return found[:count]
    return _samples_of_shard(path)[:count]


def sample_of(bucket: BucketIndex, row: int) -> Sample:
    return Sample(bucket.key(row), bucket.bucket, bucket.read(row)[0], bucket.metadata(row))


@torch.inference_mode()
def decode_sample(sample: Sample, tae) -> np.ndarray:
    """uint8 (T, H, W, 3). ValueError when `tae` is not the one that made the latent."""
    from lingen.io.video import decoded_frames

    if sample.metadata["tae_digest"] != tae.digest:
        raise ValueError(
            f"--tae: {sample.key} was encoded by TAE {sample.metadata['tae_digest']}, this is {tae.digest}"
        )
    return np.concatenate(list(decoded_frames(tae, sample.latent_CTHW, sample.bucket.frames)))


def contact_sheet(frames_THW3: np.ndarray, columns: int = 8) -> np.ndarray:
    """Up to 4 rows of frames, evenly spaced in time, as one picture: uint8 (H, W, 3)."""
    from lingen.io.video import frame_grid

    picks = np.linspace(0, len(frames_THW3) - 1, min(len(frames_THW3), 4 * columns)).round().astype(int)
    rows = [frames_THW3[picks[i : i + columns]] for i in range(0, len(picks), columns)]
    return frame_grid(rows, columns=columns)


def _samples_of_shard(path: Path) -> list[Sample]:
    found, latents = [], {}
    for key, kind, data in list_shard(path):
        if kind == LATENT:
            latents[key] = unpack_latent(data)
        elif kind == METADATA and key in latents:
            about = json.loads(data)
            found.append(Sample(key, Bucket.parse(about["bucket"]), latents.pop(key), about))
    if not found:
        raise ValueError(f"{path} holds no latents to decode; name a tar below latents/")
    return found


def _checksums(path: Path) -> dict[tuple[str, str], str]:
    """(key, extension) -> checksum, of a shard, from the index beside it."""
    beside = path.parent / INDEX
    if not beside.is_file():
        return {}
    found = {}
    for row in read_index(beside)[0].to_pylist():
        if row["shard"] == path.name:
            if "metadata_checksum" in row:
                found[row["key"], LATENT] = row["checksum"]
                found[row["key"], METADATA] = row["metadata_checksum"]
            else:
                found[row["key"], TEXT] = row["checksum"]
    return found


def _describe(kind: str, data: bytes) -> str:
    if kind == LATENT:
        latent = unpack_latent(data)
        return f"{list(latent.shape)} {str(latent.dtype)[6:]}"
    if kind == TEXT:
        tokens = unpack_text(data)
        return f"{list(tokens.shape)} {str(tokens.dtype)[6:]}"
    if kind == METADATA:
        about = json.loads(data)
        return f"{about['license']}: {about['caption'][:80]!r}"
    return f"{len(data)} bytes"
