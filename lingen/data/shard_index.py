"""Reading samples of an encoded folder by row, through the index files of its buckets (lingen/data/index_file.py).

Every member that is read is checked against its checksum: a mismatch raises DamagedSample.

C channels, T/H/W latent axes, L text tokens, D text width.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lingen.data import shards
from lingen.data.buckets import Bucket
from lingen.data.index_checks import ENCODER, check_shape
from lingen.data.index_file import (
    INDEX,
    LOCATION,
    METADATA_LOCATION,
    LatentFormat,
    TextFormat,
    first_value,
    number_column,
    read_index,
)
from lingen.io.byte_ranges import ByteRanges, Scratch

if TYPE_CHECKING:
    import pyarrow as pa


class _Members:
    """The members of one kind (latent, json or text) of a bucket: where the bytes of each row are."""

    def __init__(self, table: pa.Table, tree: str, prefix: str = ""):
        shard = table["shard"].unify_dictionaries().combine_chunks()
        self.names = [f"{tree}/{name}" for name in shard.dictionary.to_pylist()]
        self.shard: np.ndarray = np.from_dlpack(shard.indices)
        self.offset = number_column(table, prefix + "offset")
        self.size = number_column(table, prefix + "size")
        self.checksum = number_column(table, prefix + "checksum")

    def read(self, files: ByteRanges, row: int, into: Scratch) -> memoryview:
        """The member's bytes, checked; valid until the next read into the same scratch."""
        name, offset, size = self.names[self.shard[row]], int(self.offset[row]), int(self.size[row])

        def is_intact(data: memoryview) -> bool:
            return len(data) == size and shards.checksum(data) == self.checksum[row]

        data = files.read(name, offset, size, into, accept=is_intact)
        if not is_intact(data):
            what = "checksum differs" if len(data) == size else f"{len(data)} of {size} bytes, the shard is cut off"
            raise shards.DamagedSample(f"{name}: {what} at offset {offset}")
        return data

    def needed_bytes(self) -> dict[str, int]:
        """Shard -> the least size it must have."""
        need = np.zeros(len(self.names), np.int64)
        np.maximum.at(need, self.shard, self.offset + self.size)
        return dict(zip(self.names, need.tolist()))


class BucketIndex:
    """The samples of one bucket, in fixed order, readable by row.

    Args:
        bucket: which bucket.
        files: the encoded folder.
        encoders: names of the text encoders whose embeddings are read, in this order.

    Attributes:
        bucket: which bucket.
        latent_shape: C,T,H,W of every sample.
        format: of the latents.
        text_format: one per text encoder.
        digest: of all index files and so, through their checksums, of the shards.

    Raises:
        ValueError: an encoder embedded other samples than were encoded, or an index names what it must not.
        FileNotFoundError: an index is missing.
    """

    format: LatentFormat
    text_format: tuple[TextFormat, ...]

    def __init__(self, bucket: Bucket, files: ByteRanges, encoders: Sequence[str]):
        self.bucket, self._files = bucket, files
        latents = f"latents/{bucket.name}"
        # Only the columns that locate a sample: with a million samples the others would be ten times as much to read.
        data = files.read_all(f"{latents}/{INDEX}")
        content = hashlib.sha256(data)
        name = f"{files.root}/{latents}/{INDEX}"
        table, latent_format = read_index(data, [*LOCATION, *METADATA_LOCATION], name)
        if not isinstance(latent_format, LatentFormat) or latent_format.bucket != bucket.name:
            raise ValueError(f"{name}: this is not the index of latents of {bucket.name}")
        self.format = latent_format
        self._keys = table["key"].combine_chunks()
        shape = first_value(data, "shape")
        check_shape(shape, bucket, latent_format.dtype, number_column(table, "size"), name)
        self.latent_shape = torch.Size(shape)
        self._latents = _Members(table, latents)
        self._metadata = _Members(table, latents, "metadata_")
        self._text: list[_Members] = []
        text_formats: list[TextFormat] = []
        for encoder in encoders:
            text = f"text/{encoder}/{bucket.name}"
            data = files.read_all(f"{text}/{INDEX}")
            content.update(data)
            name = f"{files.root}/{text}/{INDEX}"
            table, text_format = read_index(data, LOCATION, name)
            if not isinstance(text_format, TextFormat) or text_format.bucket != bucket.name:
                raise ValueError(f"{name}: this is not the index of text of {bucket.name}")
            if text_format.name != encoder:
                raise ValueError(f"{name}: this is the text of {text_format.name}, not of {encoder}")
            if not self._keys.equals(table["key"].combine_chunks()):
                raise ValueError(
                    f"{files.root}: {text} has other samples than {latents}; run jobs/encode.py to its end again"
                )
            self._text.append(_Members(table, text))
            text_formats.append(text_format)
        self.text_format = tuple(text_formats)
        self.digest = content.hexdigest()[:16]

    @functools.cached_property
    def table(self) -> pa.Table:
        """The whole latent index, with all columns."""
        return self._read()

    def __len__(self) -> int:
        return len(self._keys)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the latent index."""
        return self._read([name])[name]

    def _read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some columns of the latent index, or all of them."""
        name = f"latents/{self.bucket.name}/{INDEX}"
        return read_index(self._files.read_all(name), columns, f"{self._files.root}/{name}")[0]

    @property
    def key_column(self) -> pa.Array:
        """All keys, in order."""
        return self._keys

    def key(self, row: int) -> str:
        """The key of a row."""
        return self._keys[row].as_py()

    def keys(self, rows: Sequence[int]) -> list[str]:
        """The keys of some rows."""
        return [self._keys[row].as_py() for row in rows]

    def row(self, key: str) -> int:
        """The row of a key.

        Raises:
            KeyError: the bucket has no such sample.
        """
        import pyarrow.compute as pc

        row = pc.index(self._keys, key).as_py()
        if row < 0:
            raise KeyError(key)
        return row

    def read(self, row: int, scratch: Sequence[Scratch] | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Read a sample.

        Args:
            row: which sample.
            scratch: memory from `scratch()`; the tensors are views of it, valid until the next read into it.

        Returns:
            The latent C,T,H,W and one text embedding L,D per encoder, in the stored dtypes.

        Raises:
            DamagedSample: bytes, checksum or shape are not what the index says.
            FileNotFoundError: the shard is missing; the message names it.
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
        """Memory for `read` to read into: one buffer for the latent and one per text encoder."""
        return [Scratch() for _ in range(1 + len(self._text))]

    def metadata(self, row: int) -> dict[str, Any]:
        """The json member: caption, licence, provenance."""
        return shards.unpack_metadata(self._metadata.read(self._files, row, Scratch()))

    def check_files(self) -> None:
        """Check that all shards are there, without reading them.

        Raises:
            FileNotFoundError: a shard is missing, or shorter than the index says; the message names it.
        """
        in_tars = self._metadata.needed_bytes()
        latents = {name: max(need, in_tars[name]) for name, need in self._latents.needed_bytes().items()}
        for needed in (latents, *(members.needed_bytes() for members in self._text)):
            sizes = self._files.sizes({name.rpartition("/")[0] for name in needed})
            for name, need in needed.items():
                if name not in sizes:
                    raise FileNotFoundError(f"{self._files.root}: shard {name} is missing; run jobs/encode.py again")
                if sizes[name] < need:
                    raise FileNotFoundError(
                        f"{self._files.root}: shard {name} has {sizes[name]} bytes of at least {need}; "
                        "copy it again, or run jobs/encode.py again"
                    )


class ShardIndex:
    """The buckets of an encoded folder.

    Args:
        buckets: name -> bucket.
        folder: path or URI, for error messages.
    """

    def __init__(self, buckets: Mapping[str, BucketIndex], folder: str):
        self.buckets, self.folder = buckets, folder

    @classmethod
    def open(cls, folder: str | Path, cache_dir: str | Path | None = None, cache_gb: float = 20.0) -> ShardIndex:
        """Read the index of every bucket.

        Args:
            folder: path or URI.
            cache_dir: where ranges of a remote folder are cached, one folder per process; None: a temporary folder.
            cache_gb: size limit of that cache.

        Raises:
            ValueError: nothing is encoded there, buckets disagree on TAE or text encoders, or something in there is
                named or sized as no encoding does it (the folder may come from anyone).
            FileNotFoundError: a bucket has no index of a text encoder that others have.
        """
        files = ByteRanges.open(folder, cache_dir, cache_gb)
        names = files.folders("latents")
        if not names:
            raise ValueError(f"{folder}: no latents here; run jobs/encode.py first, or fix the path")
        for name in names:
            try:
                Bucket.parse(name)
            except ValueError as error:
                raise ValueError(f"{folder}/latents: {error}") from None
        encoders = files.folders("text")
        if not encoders:
            raise ValueError(f"{folder}: no text here; run jobs/encode.py to its end first")
        if set(encoders) & set(names):
            raise ValueError(
                f"{folder}: encoded before text encoders had folders of their own; run jobs/encode.py again"
            )
        for name in encoders:
            if not re.fullmatch(ENCODER, name):
                raise ValueError(f"{folder}/text: {name!r} is not the name of a text encoder; move it elsewhere")
        index = cls({name: BucketIndex(Bucket.parse(name), files, encoders) for name in names}, str(folder))
        for bucket in index.buckets.values():
            if bucket.format.tae_digest != index.format.tae_digest:
                raise ValueError(f"{folder}: {bucket.bucket.name} comes from another TAE than {names[0]}")
            if [form.digest for form in bucket.text_format] != index.text_digests:
                raise ValueError(f"{folder}: {bucket.bucket.name} has other text encoders than {names[0]}")
        return index

    @property
    def format(self) -> LatentFormat:
        """The latent format of any bucket (TAE, dtype, scale and shift are the same in all)."""
        return next(iter(self.buckets.values())).format

    @property
    def text_format(self) -> tuple[TextFormat, ...]:
        """The text formats of any bucket, one per encoder, sorted by name: the order in which embeddings are read."""
        return next(iter(self.buckets.values())).text_format

    @property
    def text_names(self) -> list[str]:
        """What the text encoders are, and where their weights come from."""
        return [form.model for form in self.text_format]

    @property
    def text_dims(self) -> tuple[int, ...]:
        """The widths of the text encoders: the text_dims of a denoiser for these shards."""
        return tuple(form.dim for form in self.text_format)

    @property
    def text_digests(self) -> list[str]:
        """The digests of the text encoders: equal digests mean equal embeddings."""
        return [form.digest for form in self.text_format]

    def __len__(self) -> int:
        return sum(len(b) for b in self.buckets.values())

    def select(self, media: str | None = None, resolution: int | None = None, frames: int | None = None) -> ShardIndex:
        """The non-empty buckets of one medium, nominal resolution or length.

        Args:
            media: image or video; None: both.
            resolution: nominal resolution; None: any.
            frames: length of videos, images are selected with any; None: any.

        Raises:
            ValueError: nothing matches; the message lists the buckets that exist.
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
        """Check that all shards are there, without reading them.

        Raises:
            FileNotFoundError: a shard is missing or cut off; the message names it.
        """
        for bucket in self.buckets.values():
            bucket.check_files()


def first_captions(shards: ShardIndex, count: int = 2) -> tuple[str, ...]:
    """Captions of the first samples with different captions, videos before images."""
    captions: dict[str, None] = {}
    for bucket in sorted(shards.buckets.values(), key=lambda b: b.bucket.media, reverse=True):
        for row in range(min(len(bucket), 8)):
            captions[bucket.metadata(row)["caption"]] = None
    return tuple(captions)[:count]
