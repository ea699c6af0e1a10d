"""Measurements kept between runs, so that nothing is measured twice: Parquet parts, one folder per stage and settings.

A folder is named after the stage and the digest of everything that determines its numbers (settings, code version,
model revision); rows are keyed by content hash. So stale rows never meet a changed setting, and moving or renaming
media costs nothing. Only one row group is in memory at once, however large the store is.

Any number of jobs share a store. A part is written whole or not at all and never changes; its name begins with a number
above all others there, whatever the clock says, and the row with the largest number counts. Whoever changes the folder
holds its lock. What replaces parts takes the number of the last of them, and they go only when it is there: at any
moment, also that of a kill, every row is in the folder. Readers need no lock: they look up again what has moved.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

log = logging.getLogger(__name__)

FLUSH_ROWS, FLUSH_BYTES, FLUSH_S, SELDOM_FLUSH_S = 512, 32 << 20, 5.0, 60.0
PART_ROWS, PART_BYTES = 16384, 256 << 20
FOLD = 8
"""Small parts that are worth a fold."""
DIGITS = 20
"""Of a part's number."""
LOCK = ".lock"


class Store:
    """The rows of one stage; of several rows of a key the last one written counts.

    Args:
        folder: of all stages.
        name: stage and digest.
        schema: of the rows, with a column `key`.
    """

    def __init__(self, folder: str | Path, name: str, schema: pa.Schema):
        self.folder, self.schema = Path(folder) / name, schema
        self._queue: list[pa.Table] = []
        self._start = self._last = time.monotonic()

    def add(self, rows: pa.Table) -> None:
        """Queue rows for the next `flush`."""
        if rows.num_rows:
            self._queue.append(rows.select(self.schema.names).cast(self.schema))

    @property
    def due(self) -> bool:
        """Whether enough rows, bytes or seconds have accumulated for a `flush`."""
        now = time.monotonic()
        # A run of days writes once a minute, or it would leave too many parts.
        pause = min(SELDOM_FLUSH_S, max(FLUSH_S, (now - self._start) / 100))
        rows, size = sum(t.num_rows for t in self._queue), sum(t.nbytes for t in self._queue)
        return rows >= FLUSH_ROWS or size >= FLUSH_BYTES or now - self._last > pause

    def flush(self) -> None:
        """Write the queued rows as one part."""
        self._last = time.monotonic()
        if self._queue:
            with self._lock():
                last = max((_number(part) for part in self.parts()), default=0)
                self._write([pa.concat_tables(self._queue)], last + 1)
            self._queue = []

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """The newest row of every key, all in memory: for narrow columns."""
        tables = list(Snapshot(self).tables(columns))
        return pa.concat_tables(tables) if tables else self._empty(columns)

    def rows(self, columns: list[str] | None = None, keys: set[str] | None = None) -> Iterator[dict]:
        """Yield the newest row of every key (of `keys`), one row group in memory at a time."""
        return Snapshot(self).rows(columns, keys)

    def remove(self, keys: pa.Array) -> None:
        """Delete the rows of `keys` from the files themselves."""
        with self._lock():
            self._remove_cut_off()
            for part in self.parts():
                file = self.open(part)
                if file and pc.any(pc.is_in(file.read(["key"])["key"], keys)).as_py():
                    groups = (table.filter(pc.invert(pc.is_in(table["key"], keys))) for table in _groups([part]))
                    self._replace([part], groups)

    def compact(self) -> None:
        """Fold small parts into larger ones, keeping the order; called when a job succeeds.

        What cannot be read whole, or is being changed by another process, stays as it is.
        """
        try:
            for parts in self._foldable():
                with self._lock(wait=False) as alone:
                    if alone:
                        self._remove_cut_off()
                        self._replace(parts, _groups(parts))
        except FileNotFoundError:
            pass  # another process has just folded them
        except (OSError, pa.ArrowInvalid) as error:
            log.warning("the small files of %s are left as they are: %s", self.folder, error)

    def _foldable(self) -> Iterator[list[Path]]:
        """Yield neighbouring small parts that one part has room for, where they are many."""
        group: list[Path] = []
        rows = size = 0
        for part in (*self.parts(), None):
            file = self.open(part) if part else None
            more_rows, more_size = PART_ROWS, PART_BYTES
            if part and file:
                more_rows, more_size = file.metadata.num_rows, part.stat().st_size
            small = more_rows < PART_ROWS // 2 and more_size < PART_BYTES // 2
            if not small or rows + more_rows > PART_ROWS or size + more_size > PART_BYTES:
                if len(group) >= FOLD:
                    yield group
                group, rows, size = [], 0, 0
            if part and small:
                group.append(part)
                rows, size = rows + more_rows, size + more_size

    def keys(self) -> dict[Path, pa.ChunkedArray]:
        """The keys in each part, oldest part first."""
        while True:
            parts, found = self.parts(), {}
            try:
                for part in parts:
                    with _unless_damaged(part):
                        if file := self.open(part):
                            found[part] = file.read(["key"])["key"]
                return found
            except FileNotFoundError:
                if parts == self.parts():  # not replaced since it was listed
                    raise

    def parts(self) -> list[Path]:
        """The files of this stage, oldest first."""
        found: list[Path] | None = None
        # A listing may miss both a part that is renamed meanwhile and what it replaces; two of them in a row do not.
        while found != (found := sorted(self.folder.glob("[0-9]" * DIGITS + "-*.parquet"))):
            pass
        return found

    def open(self, part: Path) -> pq.ParquetFile | None:
        """Open a part; None when it is not a Parquet file of this stage.

        Raises:
            OSError: it cannot be read at the moment.
        """
        with _unless_damaged(part):
            file = pq.ParquetFile(part)
            return file if file.schema_arrow.equals(self.schema) else None
        return None

    def _empty(self, columns: list[str] | None) -> pa.Table:
        return pa.schema([self.schema.field(n) for n in columns or self.schema.names]).empty_table()

    @contextlib.contextmanager
    def _lock(self, wait: bool = True) -> Iterator[bool]:
        """Hold the folder's lock; yields whether it is held: not where another has it and `wait` is off, nor on a file
        system without locks, where two jobs' parts may get the same number, but nothing is ever folded."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / LOCK, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                held = True
            except OSError:
                held = False
            yield held

    def _replace(self, parts: list[Path], tables: Iterable[pa.Table]) -> None:
        """Put a new part, which holds what is to stay of some neighbouring ones, in their place."""
        self._write(tables, _number(parts[-1]))
        for part in parts:
            part.unlink(missing_ok=True)

    def _write(self, tables: Iterable[pa.Table], number: int) -> None:
        """Write a part of one row group per table."""
        name = f"{number:0{DIGITS}d}-{uuid.uuid4().hex[:8]}.parquet"
        hidden = self.folder / f".{name}"
        try:
            with pq.ParquetWriter(hidden, self.schema, compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=max(1, table.num_rows))
            with open(hidden, "rb") as f:
                os.fsync(f.fileno())
            os.replace(hidden, self.folder / name)
        finally:
            hidden.unlink(missing_ok=True)

    def _remove_cut_off(self) -> None:
        """Remove what kills left behind; under the lock, where nobody else is writing."""
        for hidden in self.folder.glob(".*.parquet"):
            hidden.unlink(missing_ok=True)


class Snapshot:
    """An index of the newest row of each key in a store, built once for many look-ups."""

    def __init__(self, store: Store):
        self._store = store
        found = store.keys()
        self._parts = list(found)
        keys = pa.chunked_array([c for column in found.values() for c in column.chunks], pa.string())
        keys = keys.combine_chunks().dictionary_encode()
        newest = np.zeros(len(keys.dictionary), np.int64)
        newest[keys.indices.to_numpy()] = np.arange(len(keys))  # of a key that occurs twice, the later row
        self._keys = keys.dictionary.take(pa.array(np.argsort(newest), pa.int64()))
        self._newest = np.sort(newest)
        self._first = np.cumsum([0, *map(len, found.values())])  # index of each part's first row

    def rows(self, columns: list[str] | None = None, keys: set[str] | None = None) -> Iterator[dict]:
        """Yield the newest rows (of `keys`), like `tables`."""
        for table in self.tables(columns, keys):
            yield from table.to_pylist()

    def tables(self, columns: list[str] | None = None, keys: set[str] | pa.Array | None = None) -> Iterator[pa.Table]:
        """Yield the newest rows (of `keys`), one row group in memory at a time; groups without any are not read."""
        wanted, names = self._newest, self._keys
        if keys is not None:
            keys = keys if isinstance(keys, pa.Array) else pa.array(sorted(keys), pa.string())
            named = pc.is_in(names, keys)
            wanted, names = wanted[named.to_numpy(zero_copy_only=False)], names.filter(named)
        for part, start, end in zip(self._parts, self._first, self._first[1:]):
            a, b = np.searchsorted(wanted, (start, end))
            if a < b:
                yield from self._read(part, wanted[a:b] - start, names[a:b], columns)

    def _read(self, part: Path, at: np.ndarray, keys: pa.Array, columns: list[str] | None) -> Iterator[pa.Table]:
        """Yield some rows of a part, the ones of `keys`; from where they are now if it has been replaced."""
        done = 0
        try:
            file = pq.ParquetFile(part)
            edges = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
            for i, (low, high) in enumerate(itertools.pairwise(edges)):
                here = at[np.searchsorted(at, low) : np.searchsorted(at, high)] - low
                if len(here):
                    yield file.read_row_group(i, columns=columns).take(pa.array(here, pa.int64()))
                    done += len(here)
        except (OSError, pa.ArrowInvalid) as error:
            if getattr(error, "errno", None) not in (errno.ENOENT, errno.ESTALE):
                raise ValueError(
                    f"{part} cannot be read ({' '.join(str(error).split())}); if it is damaged, delete it: "
                    "what it held is then measured again"
                ) from error
            yield from Snapshot(self._store).tables(columns, keys[done:])


@contextlib.contextmanager
def _unless_damaged(part: Path) -> Iterator[None]:
    """Report and suppress the decoder's errors; those of the system are raised."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        if getattr(error, "errno", None):
            raise
        log.warning("%s is damaged; what it held is measured again (%s)", part, " ".join(str(error).split()))


def _groups(parts: list[Path]) -> Iterator[pa.Table]:
    """Yield all rows of some parts, in order, in tables of about FLUSH_ROWS or FLUSH_BYTES."""
    gathered: list[pa.Table] = []
    for file in map(pq.ParquetFile, parts):
        for i in range(file.num_row_groups):
            gathered.append(file.read_row_group(i))
            if sum(t.num_rows for t in gathered) >= FLUSH_ROWS or sum(t.nbytes for t in gathered) >= FLUSH_BYTES:
                yield pa.concat_tables(gathered)
                gathered = []
    if gathered:
        yield pa.concat_tables(gathered)


def _number(part: Path) -> int:
    return int(part.name[:DIGITS])
