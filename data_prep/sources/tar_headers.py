"""The members of an uncompressed tar, read so that no header can make it loop, allocate or go backwards.

Python's tarfile believes what a header says: a negative size is an endless loop, a name of nine gigabytes is read. Here
every step goes forward by at least one block, texts are small, and numbers stay inside the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import IO, NamedTuple

BLOCK = 512
MAX_TEXT = 1 << 20
"""Bytes of a text or an extended header that are read."""
MAX_MEMBERS = 2_000_000
MAX_MEMBER = 1 << 62

_REGULAR = (b"0", b"\0", b"7")
_SPARSE = b"S"
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders and pipes: their size means nothing."""
_LONG_NAME, _LONG_LINK, _GLOBAL = b"L", b"K", b"g"
_EXTENDED = (b"x", b"X")
_GNU_TYPES = (_LONG_NAME, _LONG_LINK, _SPARSE)
_RECORD = re.compile(rb"([0-9]{1,8}) ([^=]+)=")


class TarMember(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int
    """of its first byte"""
    size: int
    """bytes in the tar"""
    sparse: bool
    """Whether these bytes are not the file's: its holes were left out."""


class TarDamage(Exception):
    """The tar is damaged, or is none; the message says where."""


class _Extra(NamedTuple):
    """What extended headers say about the next member; None where they say nothing."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


def read_members(file: IO[bytes]) -> Iterator[TarMember]:
    """Yield the regular files of a tar, in order.

    Raises:
        TarDamage: what follows is not readable.
    """
    length, at, extra = os.fstat(file.fileno()).st_size, 0, _Extra()
    for _ in range(MAX_MEMBERS):
        file.seek(at)
        header = file.read(BLOCK)
        if (not header and at) or header.count(0) == BLOCK:
            return
        _check(header, at)
        kind, data, size = header[156:157], at + BLOCK, _number(header[124:136], at)
        if kind in (_LONG_NAME, _LONG_LINK, _GLOBAL, *_EXTENDED):
            if size > MAX_TEXT:
                raise TarDamage(f"the extended header at byte {at} claims {size} bytes")
            extra = _extended(extra, kind, file.read(size), at)
            at = data + _blocks(size)
        else:
            name = _name(header) if extra.name is None else extra.name
            sparse = kind == _SPARSE or extra.sparse
            data += _sparse_blocks(file, header, at) if kind == _SPARSE else 0
            size = size if extra.size is None else extra.size
            if kind == _SPARSE or (kind in _REGULAR and not (kind == b"\0" and name.endswith("/"))):
                yield TarMember(name, data, size, sparse)
            size = 0 if kind in _WITHOUT_DATA else size
            at, extra = data + _blocks(size), _Extra()
        if data + size > length:
            raise TarDamage(f"it ends {data + size - length} bytes early")
    raise TarDamage(f"it has more than {MAX_MEMBERS} members; split it")


def _check(header: bytes, at: int) -> None:
    if len(header) < BLOCK:
        raise TarDamage(f"it ends inside the header at byte {at}")
    summed = _number(header[148:156], at)
    covered = header[:148] + b" " * 8 + header[156:]
    if summed != sum(covered) and summed != sum(b - 256 if b > 127 else b for b in covered):  # as some tars sum
        raise TarDamage(f"there is no header at byte {at}")


def _number(field: bytes, at: int) -> int:
    """A number field: octal digits, or binary behind a byte of 128."""
    try:
        if field[0] in (0x80, 0xFF):
            number = int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
        else:
            number = int(field.split(b"\0")[0].decode("ascii").strip() or "0", 8)
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_MEMBER:
        raise TarDamage(f"the header at byte {at} holds an impossible number")
    return number


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[156:157] not in _GNU_TYPES else name


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _sparse_blocks(file: IO[bytes], header: bytes, at: int) -> int:
    """Bytes of the further headers of an old GNU sparse member: each says whether another follows."""
    count, follows = 0, bool(header[482])
    while follows:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise TarDamage(f"it ends inside the header at byte {at}")
        count, follows = count + BLOCK, bool(block[504])
    return count


def _extended(extra: _Extra, kind: bytes, text: bytes, at: int) -> _Extra:
    """What is known with one more extended header. The first that names something wins, as with tar itself."""
    if kind == _LONG_NAME:
        return extra._replace(name=_text(text) if extra.name is None else extra.name)
    if kind not in _EXTENDED:
        return extra
    records = _records(text, at)
    name, size = records.get(b"path"), records.get(b"size")
    if name is not None and extra.name is None:
        extra = extra._replace(name=name.decode("utf-8", "surrogateescape").rstrip("/"))
    if size is not None and extra.size is None:
        extra = extra._replace(size=_number(b"%o" % int(size) if size.isdigit() and len(size) < 20 else b"-", at))
    return extra._replace(sparse=extra.sparse or any(key.startswith(b"GNU.sparse.") for key in records))


def _records(text: bytes, at: int) -> dict[bytes, bytes]:
    """The records "LENGTH KEY=VALUE\\n" of a pax header."""
    records: dict[bytes, bytes] = {}
    position = 0
    while found := _RECORD.match(text, position):
        length = int(found[1])
        if length <= found.end() - position:
            raise TarDamage(f"the extended header at byte {at} holds an impossible number")
        records[found[2]] = text[found.end() : position + length - 1]
        position += length
    return records
