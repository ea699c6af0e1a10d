"""Temporary files and folders that do not stay for ever when their process is killed.

Whoever makes one locks it, and the lock ends with the process, however that ends. What is the same user's and locked by
nobody was left behind by a dead process: the next one that makes something in that folder removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import platform
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX = f"lingen-temp-{platform.node()}-"
"""Of all names. A network file system may hide the locks of other machines, so each removes its own alone."""
GRACE_S = 60.0
"""What is younger stays: its process may be about to lock it."""


class TemporaryFolder(tempfile.TemporaryDirectory):
    """A folder in the system's place for temporary files; removed with this object."""

    def __init__(self) -> None:
        remove_leftovers(Path(tempfile.gettempdir()))
        super().__init__(prefix=PREFIX)
        fd = os.open(self.name, os.O_RDONLY)
        _lock(fd)
        weakref.finalize(self, os.close, fd)


@contextlib.contextmanager
def temporary_file(suffix: str = "", folder: str | Path | None = None) -> Iterator[IO[bytes]]:
    """A new file, to write to; it is removed when the block ends, unless it was renamed.

    Args:
        suffix: the end of its name.
        folder: where it is made; None: the system's place for temporary files.
    """
    folder = Path(folder or tempfile.gettempdir())
    remove_leftovers(folder)
    with tempfile.NamedTemporaryFile(prefix=PREFIX, suffix=suffix, dir=folder, delete=False) as file:
        try:
            _lock(file.fileno())
            yield file
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)


@functools.cache
def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that dead processes of this user left in a folder; once per process."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(OSError):  # locked, another user's, or removed by another process
                    _remove_if_left(entry.path)


def _remove_if_left(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or time.time() - found.st_mtime < GRACE_S:
            return
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(path)
        elif stat.S_ISREG(found.st_mode):
            os.unlink(path)
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    with contextlib.suppress(OSError):  # a file system without locks: there nothing can be removed either
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
