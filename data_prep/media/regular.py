"""Only regular files on a disk are opened: reading a pipe, a socket, a device or /proc/kmsg may never end."""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path
from typing import BinaryIO

from data_prep.media.errors import MediaError

_MADE_UP = frozenset(
    [
        *("proc", "sysfs", "debugfs", "tracefs", "securityfs", "configfs", "cgroup", "cgroup2"),
        *("bpf", "pstore", "devpts", "fusectl", "mqueue", "efivarfs"),
    ]
)
"""File systems whose files look regular, but are answers of the kernel."""


def open_regular(path: str | os.PathLike[str], max_bytes: int | None = None) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: of the file; links are followed.
        max_bytes: larger files are refused.
    Raises:
        MediaError: file_missing, not_a_file, not_readable, too_large.
    """
    try:
        _check(path, os.stat(path), max_bytes)  # opening a device may do something
        # Again, in case another file stands there by now: opening a pipe would wait for a writer.
        file = open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")  # noqa: SIM115
        try:
            _check(path, os.fstat(file.fileno()), max_bytes)
        except MediaError:
            file.close()
            raise
        return file
    except PermissionError:
        raise MediaError("not_readable", f"{path} may not be read") from None
    except (OSError, ValueError) as error:  # ValueError: NUL byte in the name
        raise MediaError("file_missing", str(error)) from None


def _check(path: str | os.PathLike[str], found: os.stat_result, max_bytes: int | None) -> None:
    if not stat.S_ISREG(found.st_mode) or _made_up(found.st_dev):
        raise MediaError("not_a_file", f"{path} is no regular file")
    if max_bytes is not None and found.st_size > max_bytes:
        raise MediaError("too_large", f"over {max_bytes / 2**30:g} GB")


def regular_file(path: str | os.PathLike[str], max_bytes: int | None = None) -> str:
    """The path, when `open_regular` opens it; raises what that raises."""
    with open_regular(path, max_bytes):
        return os.fspath(path)


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Whether `regular_file` accepts a path."""
    try:
        return bool(regular_file(path))
    except MediaError:
        return False


@functools.lru_cache(256)
def _made_up(device: int) -> bool:
    """Whether a device number (st_dev) belongs to a file system that the kernel makes up."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = [line.partition(" - ")[2].split()[:1] for line in mounts if line.split()[2:3] == [number]]
    return any(kind[0] in _MADE_UP for kind in kinds if kind)
