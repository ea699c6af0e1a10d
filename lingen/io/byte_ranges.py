"""Byte ranges of the files below one folder: local by pread, remote (s3://, gs://, ...) through a bounded local cache.

Remote folders are opened with pyarrow (S3, GCS, Azure, HDFS), others with fsspec.

A sample is one range of a tar. Remote ranges are fetched on their own, never whole shards: in random order a shard
would be evicted before its second sample is needed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import stat
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lingen.io.redact import redact
from lingen.io.stores import filesystem
from lingen.io.temporary import TemporaryFolder, remove_leftovers, temporary_file

if TYPE_CHECKING:
    from pyarrow import fs

MAX_OPEN_FILES = 128
Accept = Callable[[memoryview], bool]
"""Whether the bytes are those expected."""


class Scratch:
    """A reusable buffer to read into: allocating memory for every sample takes as long as reading it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def view(self, size: int) -> memoryview:
        """`size` writable bytes, the same memory as in the last call unless that was too small."""
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        return memoryview(self._buffer)[:size]


class ByteRanges(ABC):
    """Read-only view of a folder, thread-safe. Names are relative, with forward slashes."""

    root: str
    """path or URI of the folder"""

    @staticmethod
    def open(folder: str | Path, cache_dir: str | Path | None = None, cache_gb: float = 20.0) -> ByteRanges:
        """Open a local path or a URI.

        Args:
            folder: what to open.
            cache_dir: where remote ranges are kept, and found again after a restart; one folder per process, because
                each evicts by its own count. None: a temporary folder.
            cache_gb: size limit of the cache.
        """
        text = str(folder)
        if text.startswith("file://"):
            return LocalFiles(text.removeprefix("file://"))
        if "://" not in text:
            return LocalFiles(text)
        return RemoteFiles(text, cache_dir, int(cache_gb * 1e9))

    @abstractmethod
    def read(self, name: str, offset: int, size: int, into: Scratch, accept: Accept = lambda data: True) -> memoryview:
        """Read a range.

        Args:
            name: the file.
            offset: of the first byte.
            size: number of bytes.
            into: memory to read into.
            accept: whether bytes are intact; a cached copy that is not is fetched again.

        Returns:
            The bytes, valid until the next read into the same scratch; fewer when the file ends early.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def read_all(self, name: str) -> bytes:
        """Read a whole (small) file.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def folders(self, name: str) -> list[str]:
        """Names of the folders in a folder, sorted; empty when it does not exist."""

    @abstractmethod
    def sizes(self, folders: Iterable[str]) -> dict[str, int]:
        """Relative name -> bytes of every file in some folders; none for a folder that does not exist."""


class LocalFiles(ByteRanges):
    """Files on a mounted disk; the operating system caches."""

    def __init__(self, root: str | Path):
        self.root = str(root)
        self._open: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, name: str, offset: int, size: int, into: Scratch, accept: Accept = lambda data: True) -> memoryview:
        view = into.view(size)
        # The lock covers only finding the descriptor: dup keeps it open when another thread evicts it.
        with self._lock:
            fd = os.dup(self._descriptor(name))
        try:
            done = 0
            while done < size and (n := os.preadv(fd, [view[done:]], offset + done)):
                done += n
            return view[:done]
        finally:
            os.close(fd)

    def _descriptor(self, name: str) -> int:
        fd = self._open.get(name)
        if fd is None:
            try:
                # Not blocking: opening a pipe would wait for a writer.
                fd = os.open(os.path.join(self.root, name), os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError:
                raise FileNotFoundError(f"{self.root}: {name} is missing") from None
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise FileNotFoundError(f"{self.root}: {name} is not a file")
            self._open[name] = fd
            if len(self._open) > MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(name)
        return fd

    def read_all(self, name: str) -> bytes:
        path = Path(self.root, name)
        if not path.is_file():
            raise FileNotFoundError(f"{self.root}: {name} is missing")
        return path.read_bytes()

    def folders(self, name: str) -> list[str]:
        path = Path(self.root, name)
        return sorted(p.name for p in path.iterdir() if p.is_dir()) if path.is_dir() else []

    def sizes(self, folders: Iterable[str]) -> dict[str, int]:
        return {
            f"{folder}/{entry.name}": entry.stat().st_size
            for folder in folders
            if os.path.isdir(os.path.join(self.root, folder))
            for entry in os.scandir(os.path.join(self.root, folder))
            if entry.is_file()
        }

    def __del__(self) -> None:
        for fd in self._open.values():
            os.close(fd)


class RemoteFiles(ByteRanges):
    """Files of an object store, with a cache of ranges on disk.

    Args:
        url: the folder.
        cache_dir: where ranges are kept; None: a temporary folder.
        max_bytes: size limit of the cache; the least recently used ranges are evicted.
    """

    def __init__(self, url: str, cache_dir: str | Path | None, max_bytes: int):
        self.root = url.rstrip("/")
        self._fs, self._base = filesystem(self.root)
        self._max_bytes = max_bytes
        # Opening a file costs a request for its size; an open one serves ranges to all threads at once.
        self._open = functools.lru_cache(MAX_OPEN_FILES)(self._fs.open_input_file)
        if cache_dir is None:
            self._own = TemporaryFolder()
            cache_dir = self._own.name
        self._cache = Path(cache_dir) / hashlib.sha256(self.root.encode()).hexdigest()[:8]
        self._cache.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._cache)
        ours = (p for p in self._cache.iterdir() if re.fullmatch("[0-9a-f]{32}", p.name))
        kept = sorted(ours, key=lambda p: p.stat().st_mtime)
        self._sizes: OrderedDict[str, int] = OrderedDict((p.name, p.stat().st_size) for p in kept)
        self._used = sum(self._sizes.values())
        self._lock = threading.Lock()

    def read(self, name: str, offset: int, size: int, into: Scratch, accept: Accept = lambda data: True) -> memoryview:
        view = into.view(size)
        entry = hashlib.sha256(f"{name}:{offset}:{size}".encode()).hexdigest()[:32]
        with self._lock:
            cached = entry in self._sizes
            if cached:
                self._sizes.move_to_end(entry)
        if cached:
            try:
                with open(self._cache / entry, "rb", buffering=0) as f:
                    complete = f.readinto(view) == size
            except FileNotFoundError:  # evicted meanwhile, or deleted by someone
                complete = False
            if complete and accept(view):
                return view
        data = self._fetch(name, offset, size)
        view[: len(data)] = data
        if len(data) == size and accept(view):
            self._keep(entry, data)
        return view[: len(data)]

    def _fetch(self, name: str, offset: int, size: int) -> bytes:
        path = f"{self._base}/{name}"
        try:
            return self._open(path).read_at(size, offset)
        except OSError as error:
            self._open.cache_clear()
            if isinstance(error, FileNotFoundError) or not self._fs.get_file_info(path).is_file:
                raise FileNotFoundError(f"{redact(self.root)}: {name} is missing") from None
            raise

    def _keep(self, entry: str, data: bytes) -> None:
        if len(data) > self._max_bytes:
            return
        with temporary_file(folder=self._cache) as partial:
            partial.write(data)
            partial.flush()
            os.replace(partial.name, self._cache / entry)
        with self._lock:
            self._used += len(data) - self._sizes.pop(entry, 0)
            self._sizes[entry] = len(data)
            while self._used > self._max_bytes:
                oldest, freed = self._sizes.popitem(last=False)
                self._used -= freed
                (self._cache / oldest).unlink(missing_ok=True)

    def read_all(self, name: str) -> bytes:
        try:
            with self._fs.open_input_file(f"{self._base}/{name}") as file:
                return file.read()
        except FileNotFoundError:
            raise FileNotFoundError(f"{redact(self.root)}: {name} is missing") from None

    def folders(self, name: str) -> list[str]:
        return sorted(info.base_name for info in self._list(name) if not info.is_file)

    def sizes(self, folders: Iterable[str]) -> dict[str, int]:
        return {f"{name}/{info.base_name}": info.size for name in folders for info in self._list(name) if info.is_file}

    def _list(self, name: str) -> list[fs.FileInfo]:
        from pyarrow import fs

        return self._fs.get_file_info(fs.FileSelector(f"{self._base}/{name}", allow_not_found=True))
