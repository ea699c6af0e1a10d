"""A clip's bytes on this machine, whatever its URI, and the hash that names its content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from urllib.parse import urlsplit

from data_prep.probe import MediaError


def is_remote(uri: str) -> bool:
    return "://" in uri and urlsplit(uri).scheme not in ("", "file")


def stamp(uri: str) -> str:
    """What changes when the file behind a URI does: size and time, or the object store's tag; "" when it is not there.

    Lets a second run skip files without reading them.
    """
    if not is_remote(uri):
        try:
            found = os.stat(uri)
        except (OSError, ValueError):
            return ""
        return f"{found.st_size}-{found.st_mtime_ns}"
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        found = filesystem.info(path)
    except Exception:  # every store raises its own kinds; being absent is found out again, with a reason, by local_copy
        return ""
    return f"{found.get('size')}-{found.get('ETag') or found.get('etag') or found.get('mtime') or found.get('created')}"


@contextlib.contextmanager
def local_copy(uri: str, max_gb: float = 20.0) -> Iterator[str]:
    """The path of a local regular file with the content of `uri`; a download is deleted afterwards.

    Raises:
        MediaError: file_missing, not_a_file (a folder, pipe or device), not_readable, too_large, fetch_failed.
    """
    if not is_remote(uri):
        path = uri[len("file://") :] if uri.startswith("file://") else uri
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device could go on for ever
                raise MediaError("not_a_file", f"{path} is no regular file")
            with open(path, "rb"):
                pass
        except PermissionError:
            raise MediaError("not_readable", f"{path} may not be read") from None
        except (OSError, ValueError) as error:
            raise MediaError("file_missing", str(error)) from None
        yield path
        return
    import fsspec

    suffix = os.path.splitext(urlsplit(uri).path)[1][:16]
    with tempfile.NamedTemporaryFile(prefix="clip-", suffix=suffix) as copy:
        try:
            with fsspec.open(uri, "rb") as source:
                left = int(max_gb * 2**30)
                while chunk := source.read(1 << 20):
                    left -= len(chunk)
                    if left < 0:
                        raise MediaError("too_large", f"over {max_gb:g} GB")
                    copy.write(chunk)
        except MediaError:
            raise
        except FileNotFoundError as error:
            raise MediaError("file_missing", str(error)) from None
        except Exception as error:  # a store's own errors, credentials and network
            raise MediaError("fetch_failed", f"{type(error).__name__}: {error}") from None
        copy.flush()
        yield copy.name


def content_hash(path: str) -> str:
    """32 hex digits of the SHA-256 of the bytes: the clip's name, wherever it lies."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:32]
