"""Measurements kept between runs, so that nothing is measured twice: Parquet parts, one folder per stage and settings.

A folder is named after the stage and the digest of everything that determines its numbers (settings, code version,
model revision); rows are keyed by content hash. So stale rows never meet a changed setting, and moving or renaming
media costs nothing. One writer (the driver) adds whole parts atomically: a kill at any moment loses seconds of work and
breaks nothing. Only one row group is in memory at once, however large the store is.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FLUSH_ROWS, FLUSH_BYTES, FLUSH_S, SELDOM_FLUSH_S = 512, 32 << 20, 5.0, 60.0
PART_ROWS, PART_BYTES = 16384, 256 << 20


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
            # Names sort by time, so that reading in order lets later rows replace earlier ones.
            self._write([pa.concat_tables(self._queue)], f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet")
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
        for part in self.parts():
            if self.open(part) and pc.any(pc.is_in(pq.read_table(part, columns=["key"])["key"], keys)).as_py():
                groups = (table.filter(pc.invert(pc.is_in(table["key"], keys))) for table in self._groups([part]))
                self._write(groups, part.name)

    def compact(self) -> None:
        """Fold small parts into larger ones, keeping the order; called when a job succeeds."""
        group: list[Path] = []
        rows = size = 0
        for part in self.parts():
            file = self.open(part)
            part_rows, part_size = (file.metadata.num_rows, part.stat().st_size) if file else (0, 0)
            if rows + part_rows > PART_ROWS or size + part_size > PART_BYTES:
                self._fold(group)
                group, rows, size = [], 0, 0
            if part_rows < PART_ROWS // 2 and part_size < PART_BYTES // 2:
                group.append(part)
                rows, size = rows + part_rows, size + part_size
        self._fold(group)

    def _fold(self, parts: list[Path]) -> None:
        if len(parts) < 8:
            return
        # The fold takes the last part's name, so that it stays older than anything written meanwhile.
        self._write(self._groups(parts), parts[-1].name)
        for part in parts[:-1]:
            part.unlink(missing_ok=True)

    def _groups(self, parts: list[Path]) -> Iterator[pa.Table]:
        """Yield all rows of some parts, in order, in tables of about FLUSH_ROWS or FLUSH_BYTES."""
        gathered: list[pa.Table] = []
        for file in filter(None, map(self.open, parts)):
            for i in range(file.num_row_groups):
                gathered.append(file.read_row_group(i))
                if sum(t.num_rows for t in gathered) >= FLUSH_ROWS or sum(t.nbytes for t in gathered) >= FLUSH_BYTES:
                    yield pa.concat_tables(gathered)
                    gathered = []
        if gathered:
            yield pa.concat_tables(gathered)

    def parts(self) -> list[Path]:
        """The files of this stage, oldest first."""
        return sorted(p for p in self.folder.glob("*.parquet") if not p.name.startswith("."))

    def open(self, part: Path) -> pq.ParquetFile | None:
        """Open a part; None when it is not a Parquet file of this stage."""
        try:
            file = pq.ParquetFile(part)
        except (pa.ArrowInvalid, OSError):
            return None
        return file if file.schema_arrow.equals(self.schema) else None

    def _empty(self, columns: list[str] | None) -> pa.Table:
        return pa.schema([self.schema.field(n) for n in columns or self.schema.names]).empty_table()

    def _write(self, tables: Iterable[pa.Table], name: str) -> None:
        """Write a part of one row group per table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        hidden = self.folder / f".{name}"
        with pq.ParquetWriter(hidden, self.schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(1, table.num_rows))
        with open(hidden, "rb") as f:
            os.fsync(f.fileno())
        os.replace(hidden, self.folder / name)


class Snapshot:
    """An index of the newest row of each key in a store, built once for many look-ups."""

    def __init__(self, store: Store):
        self._parts = [p for p in store.parts() if store.open(p)]
        columns = [pq.read_table(p, columns=["key"])["key"] for p in self._parts]
        keys = pa.chunked_array([c for column in columns for c in column.chunks], pa.string())
        keys = keys.combine_chunks().dictionary_encode()
        newest = np.zeros(len(keys.dictionary), np.int64)
        newest[keys.indices.to_numpy()] = np.arange(len(keys))  # of a key that occurs twice, the later row
        self._keys = keys.dictionary.take(pa.array(np.argsort(newest), pa.int64()))
        self._newest = np.sort(newest)
        self._first = np.cumsum([0, *map(len, columns)])  # index of each part's first row

    def rows(self, columns: list[str] | None = None, keys: set[str] | None = None) -> Iterator[dict]:
        """Yield the newest rows (of `keys`), like `tables`."""
        for table in self.tables(columns, keys):
            yield from table.to_pylist()

    def tables(self, columns: list[str] | None = None, keys: set[str] | pa.Array | None = None) -> Iterator[pa.Table]:
        """Yield the newest rows (of `keys`), one row group in memory at a time; groups without any are not read."""
        wanted = self._newest
        if keys is not None:
            keys = keys if isinstance(keys, pa.Array) else pa.array(sorted(keys), pa.string())
            wanted = wanted[pc.is_in(self._keys, keys).to_numpy(zero_copy_only=False)]
        for part, start, end in zip(self._parts, self._first, self._first[1:]):
            here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)] - start
            if not len(here):
                continue
            file = pq.ParquetFile(part)
            edges = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
            for i, (low, high) in enumerate(itertools.pairwise(edges)):
                at = here[np.searchsorted(here, low) : np.searchsorted(here, high)] - low
                if len(at):
                    yield file.read_row_group(i, columns=columns).take(pa.array(at, pa.int64()))
