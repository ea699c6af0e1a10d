"""The shard format: what a sample is, how it is stored in a tar, and how it is written and read.

An encoded folder holds several trees with the same file names and the same order of samples:

    latents/BUCKET/000000.tar     KEY.latent.safetensors, KEY.json   (tensor "latent" C,T,H,W; metadata and provenance)
    latents/BUCKET/index.parquet
    text/ENCODER/BUCKET/000000.tar   KEY.text.safetensors            (tensor "text" L,D)
    text/ENCODER/BUCKET/index.parquet

Plain `webdataset` groups the members of a key (docs/shards.md). Every text encoder has its own tree, so that it can be
added, replaced or left out without touching anything else. The index (lingen/data/index_file.py) gives the byte offset
and the checksum of every member. Tars are byte-identical for equal content: no timestamps, no owner, fixed order.

C channels, T/H/W latent axes, L text tokens, D text width.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from lingen.data.provenance import Provenance
from lingen.io.manifest import create_partial

LATENT, METADATA, TEXT = "latent.safetensors", "json", "text.safetensors"
KEY = "[A-Za-z0-9_-]{1,73}_w[0-9]{4,8}"
"""A key, as `sample_key` makes it: no dot, which would end it in a tar, and no slash, which would lead elsewhere."""
LEAST_KEY, MOST_KEY = len("x_w0000"), 83
"""Characters of a key."""
MOST_MEMBER_BYTES = 1 << 30
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_SAFETENSORS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


class DamagedSample(Exception):
    """A sample's bytes are not what the index says; the message names shard, key and fault."""


_NUMBER = (int, float)
_METADATA_TYPES = {f.name: str if f.type == "str" else _NUMBER for f in dataclasses.fields(Provenance)}
_METADATA_TYPES["tae_digest"] = str


def checksum(data: bytes | bytearray | memoryview) -> int:
    """CRC-32 of a member's bytes: detects any burst of up to 32 bits, misses one in 2^32 of the rest; 4 GB/s."""
    return zlib.crc32(data)


def pack_latent(latent_CTHW: torch.Tensor, dtype: str) -> bytes:
    """The bytes of KEY.latent.safetensors.

    Raises:
        ValueError: a value is not finite in `dtype`.
    """
    return save_safetensors({"latent": _finite(latent_CTHW, dtype)})


def pack_text(embedding_LD: torch.Tensor, dtype: str) -> bytes:
    """The bytes of KEY.text.safetensors.

    Raises:
        ValueError: a value is not finite in `dtype`.
    """
    return save_safetensors({"text": _finite(embedding_LD, dtype)})


def pack_metadata(provenance: Provenance, tae_digest: str) -> bytes:
    """The bytes of KEY.json: the provenance, and the digest of the latent's TAE (a tar may be copied without index)."""
    about = dataclasses.asdict(provenance) | {"tae_digest": tae_digest}
    return json.dumps(about, ensure_ascii=False, sort_keys=True).encode()


def unpack_latent(data: memoryview | bytes) -> torch.Tensor:
    """A latent C,T,H,W in the stored dtype.

    Raises:
        DamagedSample: the bytes are not such a member.
    """
    return _view(data, "latent")


def unpack_text(data: memoryview | bytes) -> torch.Tensor:
    """A text embedding L,D in the stored dtype.

    Raises:
        DamagedSample: the bytes are not such a member.
    """
    return _view(data, "text")


def unpack_metadata(data: memoryview | bytes) -> dict[str, Any]:
    """The content of KEY.json: the fields of Provenance, and tae_digest.

    Raises:
        DamagedSample: the bytes are not such a member.
    """
    try:
        found = json.loads(bytes(data))
        for name, kind in _METADATA_TYPES.items():
            if not isinstance(found[name], kind):
                raise TypeError(f"{name} is {found[name]!r:.80}")
        if not all(math.isfinite(found[name]) for name, kind in _METADATA_TYPES.items() if kind is not str):
            raise ValueError("a number is not finite")
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise DamagedSample(f"not the metadata of a sample: {error!r:.200}") from error
    return found


def _view(data: memoryview | bytes, name: str) -> torch.Tensor:
    """A tensor of a safetensors file as a view of its bytes; nothing that the header says is trusted.

    The library would copy. So do we where the bytes are read-only.
    """
    buffer = bytearray(data) if isinstance(data, bytes) else data
    try:
        size = int.from_bytes(buffer[:8], "little")
        about = json.loads(bytes(buffer[8 : 8 + size]))[name]
        dtype, shape = _SAFETENSORS[about["dtype"]], about["shape"]
        begin, end = about["data_offsets"]
        count = math.prod(shape)
        if min(shape, default=1) < 1 or begin < 0 or end - begin != count * dtype.itemsize:
            raise ValueError(f"{name} claims shape {shape} and bytes {begin} to {end}")
        return torch.frombuffer(buffer, dtype=dtype, count=count, offset=8 + size + begin).view(shape)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise DamagedSample(f"not a safetensors file with a tensor {name!r}: {error}") from error


def _finite(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    stored = tensor.detach().cpu().to(DTYPES[dtype]).contiguous()
    if not torch.isfinite(stored).all():
        raise ValueError(f"a value is not finite as {dtype}; choose bfloat16 or float32 for --dtype")
    return stored


@dataclasses.dataclass(frozen=True)
class Member:
    """Where the bytes of a member are in its tar."""

    offset: int
    size: int
    """in bytes"""
    checksum: int
    """CRC-32"""

    def columns(self, prefix: str = "") -> dict[str, Any]:
        """The columns of an index row that locate this member."""
        return {prefix + name: value for name, value in dataclasses.asdict(self).items()}


class ShardWriter:
    """Context manager that writes one tar, which appears under its name only when it is complete and on disk.

    An exception leaves nothing behind.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ShardWriter:
        fd, self._partial = create_partial(self.path)
        self._file = os.fdopen(fd, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        return self

    def add(self, key: str, extension: str, data: bytes) -> Member:
        """Append KEY.EXTENSION; members of one key must be adjacent.

        Raises:
            ValueError: `read_shard` would not read it back.
        """
        _check_member(self.path, f"{key}.{extension}", len(data))
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size, header.mode, header.mtime = len(data), 0o644, 0
        offset = self._tar.offset + tarfile.BLOCKSIZE  # USTAR: the header is one block
        self._tar.addfile(header, io.BytesIO(data))
        return Member(offset, len(data), checksum(data))

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self._tar.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._partial, self.path)
        finally:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def read_shard(path: str | Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield all members of a tar as (key, extension, bytes), one at a time; its header blocks are not trusted.

    Not with `tarfile`: a negative size in a header leads it back to where it has been, for ever.

    Raises:
        ValueError: the file is not a tar of samples as ShardWriter writes it.
    """
    if not Path(path).is_file():  # opening a pipe would wait for its writer
        raise ValueError(f"{path} is not a file")
    with open(path, "rb") as file:
        while (block := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.HeaderError, ValueError) as error:
                at = file.tell() - len(block)
                raise ValueError(f"{path}: no header of a tar at byte {at}: {error}") from None
            if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise ValueError(f"{path}: {header.name!r} is a link, a folder or another thing that no shard has")
            _check_member(path, header.name, header.size)
            data = file.read(header.size)
            if len(data) < header.size:
                raise ValueError(f"{path}: the tar is cut off within {header.name}")
            file.seek(-header.size % tarfile.BLOCKSIZE, os.SEEK_CUR)
            key, _, extension = header.name.partition(".")
            yield key, extension, data


def _check_member(path: str | Path, name: str, size: int) -> None:
    key, _, extension = name.partition(".")
    if not re.fullmatch(KEY, key) or extension not in (LATENT, METADATA, TEXT) or not 0 < size <= MOST_MEMBER_BYTES:
        raise ValueError(f"{path}: {name!r:.200} of {size} bytes is not KEY.EXTENSION of a sample")
