"""One process at a time in an output folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
import weakref
from pathlib import Path
from typing import ClassVar

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds: a killed job's children may outlive it by a moment."""


class FolderLock:
    """Held while the object lives. The lock is the folder's own, so nothing is left in it.

    A network file system keeps it among the processes of one machine only.
    """

    _held: ClassVar[weakref.WeakValueDictionary[tuple[int, int], FolderLock]] = weakref.WeakValueDictionary()

    def __init__(self, fd: int):
        self._close = weakref.finalize(self, os.close, fd)

    @classmethod
    def take(cls, folder: Path, patience: float = PATIENCE) -> FolderLock:
        """Lock a folder, creating it; within one process, everybody shares its lock.

        Raises:
            ValueError: another process has it, still after `patience` seconds.
        """
        end = time.monotonic() + patience
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            found = os.fstat(fd)
            inode = (found.st_dev, found.st_ino)
            if held := cls._held.get(inode):
                os.close(fd)
                return held
            if not _locked(fd):
                os.close(fd)
                if time.monotonic() > end:
                    raise ValueError(
                        f"--output: another process is writing {folder}; wait, stop it, or choose another folder"
                    )
                time.sleep(0.1)
            elif not folder.is_dir() or not os.path.samestat(found, folder.stat()):
                os.close(fd)  # replaced by another one meanwhile
            else:
                cls._held[inode] = lock = cls(fd)
                return lock


def _locked(fd: int) -> bool:
    """Whether this process has the lock now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        log.warning("this file system has no locks (%s): do not give two jobs one --output at a time", error.strerror)
    return True
