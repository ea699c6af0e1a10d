"""index.parquet: which samples a bucket has, where their bytes are, and what made them.

The schema's metadata (key "lingen", JSON) says how to read the tensors: for latents the TAE's digest, scale and shift,
dtype, frames per second; for text the encoder's name, weights, digest and width. So an index explains itself even when
it is copied away from its folder.

C channels, T/H/W latent axes, L text tokens, D text width.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lingen.data import shards
from lingen.data.buckets import Bucket
from lingen.io.byte_ranges import ByteRanges, Scratch
from lingen.io.manifest import digest, write_atomic

INDEX = "index.parquet"
_KEY = b"lingen"
_WHERE = ("key", "shard", "offset", "size", "checksum")
_WHERE_METADATA = ("metadata_offset", "metadata_size", "metadata_checksum")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentFormat:
    """What one must know to use a bucket's latents."""

    bucket: str
    resolution: int
    """Nominal resolution (256 for 256p) that the bucket belongs to."""
    fps: float
    dtype: str
    tae_digest: str
    scale: list[float]
    """Per channel; latents are stored normalised: (raw - shift) / scale. For readers that decode with another tool."""
    shift: list[float]
    version: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFormat:
    """What one must know to use one encoder's text embeddings of a bucket."""

    bucket: str
    dtype: str
    name: str
    """The encoder's folder below text/."""
    model: str
    """What it is, and where its weights come from."""
    digest: str
    dim: int
    version: int = 2


def _schema(kind: str):
    import pyarrow as pa

    where = [("key", pa.string()), ("shard", pa.string())]
    where += [("offset", pa.int64()), ("size", pa.int64()), ("checksum", pa.uint32())]
    if kind == "text":
        return pa.schema([*where, ("length", pa.int32())])
    metadata = [("metadata_offset", pa.int64()), ("metadata_size", pa.int64()), ("metadata_checksum", pa.uint32())]
    facts = [("clip_id", pa.string()), ("license", pa.string()), ("source", pa.string()), ("seconds", pa.float64())]
    facts += [("shape", pa.list_(pa.int32())), ("canary_psnr", pa.float64())]
    return pa.schema([*where, *metadata, *facts])


def write_index(path: str | Path, rows: Iterable[dict[str, Any]], form: LatentFormat | TextFormat) -> None:
    """Write one bucket's index, atomically. `rows`: dicts with the columns of the kind's schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema("text" if isinstance(form, TextFormat) else "latents")
    schema = schema.with_metadata({_KEY: json.dumps(dataclasses.asdict(form), sort_keys=True)})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def read_index(data: bytes | str | Path, columns: Sequence[str] | None = None):
    """(table, format) of an index given as path or bytes; all columns, or those named."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Not pq.read_table: that imports pyarrow.dataset and pandas, which takes longer than reading.
    source = pa.BufferReader(data) if isinstance(data, bytes) else data
    with pq.ParquetFile(source, read_dictionary=["shard"]) as file:
        table = file.read(columns)
    form = json.loads(table.schema.metadata[_KEY])
    return table, (LatentFormat if "tae_digest" in form else TextFormat)(**form)


def _first(data: bytes, column: str):
    """The first row's value."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return next(pq.ParquetFile(pa.BufferReader(data)).iter_batches(1, columns=[column]))[column][0].as_py()


def _integers(table, name: str) -> np.ndarray:
    """A column of numbers without a copy (pyarrow's own to_numpy imports pandas)."""
    return np.from_dlpack(table[name].combine_chunks())


def samples_digest(manifest: dict[str, Any]) -> str:
    """Of all samples of an encoded folder, from its manifest: through the indexes' checksums, of every byte."""
    return digest({name: value for name, value in manifest["outputs"].items() if name.endswith(".parquet")})


class _Column:
    """The members of one kind (latents or text) of one bucket: where row i lies."""

    def __init__(self, table, tree: str, prefix: str = ""):
        shard = table["shard"].unify_dictionaries().combine_chunks()
        self.names = [f"{tree}/{name}" for name in shard.dictionary.to_pylist()]
        self.shard = np.from_dlpack(shard.indices)
        self.offset = _integers(table, prefix + "offset")
        self.size = _integers(table, prefix + "size")
        self.checksum = _integers(table, prefix + "checksum")

    def read(self, files: ByteRanges, row: int, into: Scratch) -> memoryview:
        """The member's bytes, proved; good until the next read into the same scratch."""
        name, offset, size = self.names[self.shard[row]], int(self.offset[row]), int(self.size[row])

        def good(data: memoryview) -> bool:
            return len(data) == size and shards.checksum(data) == self.checksum[row]

        data = files.read(name, offset, size, into, accept=good)
        if not good(data):
            what = "checksum differs" if len(data) == size else f"{len(data)} of {size} bytes, the shard is cut off"
            raise shards.DamagedSample(f"{name}: {what} at offset {offset}")
        return data

    def needed_bytes(self) -> dict[str, int]:
        """Shard -> the least size it must have."""
        need = np.zeros(len(self.names), np.int64)
        np.maximum.at(need, self.shard, self.offset + self.size)
        return dict(zip(self.names, need.tolist()))


class BucketIndex:
    """One bucket's samples, in fixed order, readable by row.

    Fields: bucket; latent_shape, C,T,H,W of every sample; format; text_format, one per text encoder; digest, of all
    index files and so, by the checksums in them, of the shards.
    """

    def __init__(self, bucket: Bucket, files: ByteRanges, encoders: Sequence[str]):
        self.bucket, self._files = bucket, files
        latents = f"latents/{bucket.name}"
        # Only the columns that find a sample: at a million samples the others would be ten times as much to read.
        data = files.read_all(f"{latents}/{INDEX}")
        content = hashlib.sha256(data)
        table, self.format = read_index(data, [*_WHERE, *_WHERE_METADATA])
        self._keys = table["key"].combine_chunks()
        self.latent_shape = torch.Size(_first(data, "shape"))
        self._latents = _Column(table, latents)
        self._metadata = _Column(table, latents, "metadata_")
        self._text, self.text_format = [], ()
        for text in (f"text/{encoder}/{bucket.name}" for encoder in encoders):
            data = files.read_all(f"{text}/{INDEX}")
            content.update(data)
            table, form = read_index(data, _WHERE)
            if not self._keys.equals(table["key"].combine_chunks()):
                raise ValueError(
                    f"{files.root}: {text} has other samples than {latents}; run jobs/encode.py to its end again"
                )
            self._text.append(_Column(table, text))
            self.text_format += (form,)
        self.digest = content.hexdigest()[:16]

    @functools.cached_property
    def table(self):
        """The whole latent index, every column of it."""
        return read_index(self._files.read_all(f"latents/{self.bucket.name}/{INDEX}"))[0]

    def __len__(self) -> int:
        return len(self._keys)

    def column(self, name: str):
        """One column of the latent index."""
        return read_index(self._files.read_all(f"latents/{self.bucket.name}/{INDEX}"), [name])[0][name]

    @property
    def key_column(self):
        """All keys, in order, as an Arrow array."""
        return self._keys

    def key(self, row: int) -> str:
        return self._keys[row].as_py()

    def keys(self, rows: Sequence[int]) -> list[str]:
        return [self._keys[row].as_py() for row in rows]

    def row(self, key: str) -> int:
        """The row of a key, or KeyError."""
        import pyarrow.compute as pc

        row = pc.index(self._keys, key).as_py()
        if row < 0:
            raise KeyError(key)
        return row

    def read(self, row: int, scratch: Sequence[Scratch] | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Latent C,T,H,W and one L,D text embedding per encoder, in the stored dtypes.

        With `scratch` (of `scratch()`) the tensors are views into it, good until the next read.

        Raises:
            DamagedSample: bytes, checksum or shape are not what the index says.
            FileNotFoundError: the shard is gone; the message names it.
        """
        of_latent, *of_text = scratch or self.scratch()
        try:
            latent = shards.unpack_latent(self._latents.read(self._files, row, of_latent))
            text = [shards.unpack_text(c.read(self._files, row, into)) for c, into in zip(self._text, of_text)]
        except shards.DamagedSample as damage:
            raise shards.DamagedSample(f"{self.key(row)}: {damage}") from damage
        if latent.shape != self.latent_shape or [t.shape[-1] for t in text] != [form.dim for form in self.text_format]:
            shapes = [list(latent.shape), *(list(t.shape) for t in text)]
            raise shards.DamagedSample(f"{self.key(row)}: shapes {shapes} in bucket {self.bucket.name}")
        return latent, text

    def scratch(self) -> list[Scratch]:
        """What `read` reads into: room for a latent and for a text of each encoder."""
        return [Scratch() for _ in range(1 + len(self._text))]

    def metadata(self, row: int) -> dict[str, Any]:
        """The json member: caption, licence, provenance."""
        return shards.unpack_metadata(self._metadata.read(self._files, row, Scratch()))

    def check_files(self) -> None:
        """FileNotFoundError naming the first shard that is missing or too short to hold what the index says."""
        for column in (self._latents, *self._text):
            sizes = self._files.sizes({name.rpartition("/")[0] for name in column.names})
            for name, need in column.needed_bytes().items():
                if name not in sizes:
                    raise FileNotFoundError(f"{self._files.root}: shard {name} is missing; run jobs/encode.py again")
                if sizes[name] < need:
                    raise FileNotFoundError(
                        f"{self._files.root}: shard {name} has {sizes[name]} bytes of at least {need}; "
                        "copy it again, or run jobs/encode.py again"
                    )


class ShardIndex:
    """The buckets of an encoded folder."""

    def __init__(self, buckets: dict[str, BucketIndex], folder: str):
        self.buckets, self.folder = buckets, folder

    @classmethod
    def open(cls, folder: str | Path, cache_dir: str | Path | None = None, cache_gb: float = 20.0) -> ShardIndex:
        """Read every bucket's index.

        Args: folder, path or fsspec URI; cache_dir (one per process) and cache_gb, where and how much of a remote
            folder is kept locally.

        Raises:
            ValueError: there is none, or buckets disagree on TAE or text encoders.
            FileNotFoundError: a bucket has no index of a text encoder that others have.
        """
        files = ByteRanges.open(folder, cache_dir, cache_gb)
        names = files.folders("latents")
        if not names:
            raise ValueError(f"{folder}: no latents here; run jobs/encode.py first, or fix the path")
        encoders = files.folders("text")
        if not encoders:
            raise ValueError(f"{folder}: no text here; run jobs/encode.py to its end first")
        if set(encoders) & set(names):
            raise ValueError(
                f"{folder}: encoded before text encoders had folders of their own; run jobs/encode.py again"
            )
        index = cls({name: BucketIndex(Bucket.parse(name), files, encoders) for name in names}, str(folder))
        for bucket in index.buckets.values():
            if bucket.format.tae_digest != index.format.tae_digest:
                raise ValueError(f"{folder}: {bucket.bucket.name} comes from another TAE than {names[0]}")
            if [form.digest for form in bucket.text_format] != index.text_digests:
                raise ValueError(f"{folder}: {bucket.bucket.name} has other text encoders than {names[0]}")
        return index

    @property
    def format(self) -> LatentFormat:
        """Any bucket's latent format (TAE, dtype, scale and shift are the same in all)."""
        return next(iter(self.buckets.values())).format

    @property
    def text_format(self) -> tuple[TextFormat, ...]:
        """Any bucket's text formats, one per encoder, sorted by name: the order in which embeddings are read."""
        return next(iter(self.buckets.values())).text_format

    @property
    def text_names(self) -> list[str]:
        """What the text encoders are, and where their weights come from."""
        return [form.model for form in self.text_format]

    @property
    def text_dims(self) -> tuple[int, ...]:
        """The text encoders' widths: what a denoiser for these shards has as text_dims."""
        return tuple(form.dim for form in self.text_format)

    @property
    def text_digests(self) -> list[str]:
        """The text encoders' digests: embeddings of equal ones are equal."""
        return [form.digest for form in self.text_format]

    def __len__(self) -> int:
        return sum(len(b) for b in self.buckets.values())

    def select(self, media: str | None = None, resolution: int | None = None, frames: int | None = None) -> ShardIndex:
        """The buckets of one medium, nominal resolution or length, non-empty ones only; `frames` leaves images in.

        Raises:
            ValueError: nothing matches; the message lists what there is.
        """

        def wanted(b: BucketIndex) -> bool:
            return (
                len(b) > 0
                and media in (None, b.bucket.media)
                and resolution in (None, b.format.resolution)
                and (frames is None or b.bucket.media == "image" or b.bucket.frames == frames)
            )

        found = {name: b for name, b in self.buckets.items() if wanted(b)}
        if not found:
            asked = ", ".join(
                f"{k} {v}" for k, v in (("media", media), ("resolution", resolution), ("frames", frames)) if v
            )
            have = ", ".join(f"{name} ({len(b)})" for name, b in self.buckets.items())
            raise ValueError(f"{self.folder}: no samples for {asked}; it has {have}. Encode with --stages or --frames")
        return ShardIndex(found, self.folder)

    def check_files(self) -> None:
        """FileNotFoundError naming the first missing or cut-off shard."""
        for bucket in self.buckets.values():
            bucket.check_files()


def first_captions(shards: ShardIndex, count: int = 2) -> tuple[str, ...]:
    """Captions of the first samples with different captions, videos before images."""
    captions: dict[str, None] = {}
    for bucket in sorted(shards.buckets.values(), key=lambda b: b.bucket.media, reverse=True):
        for row in range(min(len(bucket), 8)):
            captions[bucket.metadata(row)["caption"]] = None
    return tuple(captions)[:count]
