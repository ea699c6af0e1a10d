"""A clip's bytes on this machine, whatever its URI, and the hash that names its content.

A URI is a local path, an object store's (s3://, gs://, abfs:// through pyarrow; others through fsspec), or a member of
an uncompressed tar: PATH.tar#OFFSET+SIZE, bytes of the tar. Members are never extracted by name. URIs come from data:
they name a place and nothing else (lingen.io.stores.data_filesystem).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

from data_prep.media.errors import MediaError
from data_prep.media.regular import regular_file
from lingen.io.stores import data_filesystem, objection
from lingen.io.temporary import temporary_file

if TYPE_CHECKING:
    from pyarrow import fs

    OpenStore = Callable[[str], tuple[fs.FileSystem, str]]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MEMBER = re.compile(r"(.+\.tar)#([0-9]{1,18})\+([0-9]{1,18})(\.\w{1,16})?", re.DOTALL)


def is_remote(uri: str) -> bool:
    """Whether a URI names an object store or server; a local path and file:// do not."""
    scheme = _SCHEME.match(uri)
    return scheme is not None and scheme[1].lower() != "file"


def member_uri(tar: str, offset: int, size: int, suffix: str) -> str:
    """The URI of a tar member's bytes."""
    return f"{tar}#{offset}+{size}{suffix}"


def file_of(uri: str) -> str:
    """The file that is opened for a URI: the tar of a member, otherwise the URI itself."""
    member = _MEMBER.fullmatch(uri)
    return member[1] if member else uri


def stamp(uri: str) -> str:
    """A text that changes when the file behind a URI does (size and time); "" when there is no such file.

    It lets a second run skip files without reading them.
    """
    if member := _MEMBER.fullmatch(uri):
        whole = stamp(member[1])
        return whole and f"{whole}-{member[2]}+{member[3]}"
    if not is_remote(uri):
        try:
            found = os.stat(local_path(uri))
        except (OSError, ValueError):
            return ""
        return f"{found.st_size}-{found.st_mtime_ns}"
    try:
        store, path = data_filesystem(uri)
        found = store.get_file_info(path)
    except Exception:  # every store raises errors of its own; local_copy will give the reason
        return ""
    return f"{found.size}-{found.mtime_ns}" if found.is_file else ""


def local_path(uri: str) -> str:
    """A local URI without its file:// prefix."""
    return uri[len("file://") :] if uri.startswith("file://") else uri


@contextlib.contextmanager
def local_copy(uri: str, max_gb: float = 20.0, open_store: OpenStore = data_filesystem) -> Iterator[str]:
    """Yield the path of a local regular file with the content of `uri`; a temporary copy is deleted afterwards.

    Args:
        uri: a local path, a remote URI or a tar member's.
        max_gb: larger files are refused (GiB).
        open_store: lingen.io.stores.filesystem for a URI that a person typed.
    Raises:
        MediaError: file_missing, not_a_file (a folder, pipe or device), not_readable, too_large, unsafe_uri,
            fetch_failed; truncated for a tar member.
    """
    member = _MEMBER.fullmatch(uri)
    max_bytes = int(max_gb * 2**30)
    if not member and not is_remote(uri):
        yield regular_file(local_path(uri), max_bytes)
        return
    file, offset, size = (member[1], int(member[2]), int(member[3])) if member else (uri, 0, None)
    if open_store is data_filesystem and is_remote(file) and (reason := objection(file)):
        raise MediaError("unsafe_uri", reason)
    suffix = os.path.splitext(uri if member else re.split("[?#]", uri)[0])[1][:16]
    with temporary_file(suffix) as copy:
        try:
            _copy(file, copy, offset, size, max_bytes, open_store)
        except MediaError:
            raise
        except FileNotFoundError as error:
            raise MediaError("file_missing", str(error)) from None
        except Exception as error:  # the store's own errors: credentials, network
            raise MediaError("fetch_failed", f"{type(error).__name__}: {error}") from None
        copy.flush()
        yield copy.name


def _copy(uri: str, to: IO[bytes], offset: int, size: int | None, max_bytes: int, open_store: OpenStore) -> None:
    """Copy `size` bytes from `offset` on; with None all, which must be at most max_bytes."""
    if is_remote(uri):
        store, path = open_store(uri)
        source = store.open_input_file(path)
    else:
        source = open(regular_file(local_path(uri)), "rb")  # noqa: SIM115
    with source:
        source.seek(offset)
        left = max_bytes + 1 if size is None else size
        if left > max_bytes + 1:
            raise MediaError("too_large", f"over {max_bytes / 2**30:g} GB")
        while left and (chunk := source.read(min(left, 1 << 20))):
            to.write(chunk)
            left -= len(chunk)
    if size is None and left <= 0:
        raise MediaError("too_large", f"over {max_bytes / 2**30:g} GB")
    if size is not None and left:
        raise MediaError("truncated", f"the tar ends {left} bytes before the member does")


def content_hash(path: str) -> str:
    """The first 32 hex digits of the SHA-256 of the bytes: the clip's name, wherever it is stored."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:32]
