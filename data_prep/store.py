"""Measurements kept between runs, so that nothing is measured twice: Parquet parts, one folder per stage and settings.

A folder's name is the stage and the digest of all that decides its numbers (settings, code version, model revision); a
row is keyed by content hash. So a changed setting never meets stale rows, and moving or renaming media costs nothing.
One writer (the driver) adds whole parts atomically: a kill at any moment loses seconds of work and breaks nothing.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FLUSH_ROWS, FLUSH_S, PART_ROWS = 512, 5.0, 16384


class Store:
    """The rows of one stage. `schema` must have the column `key`; a key's row written last is the one that counts.

    Args: folder of all stages; name, stage and digest; schema.
    """

    def __init__(self, folder: str | Path, name: str, schema: pa.Schema):
        self.folder, self.schema = Path(folder) / name, schema
        self._rows: list[dict] = []
        self._last = time.monotonic()

    def add(self, row: dict) -> None:
        """Queue one row; `flush` writes it, which is `due` when enough rows or seconds have gathered."""
        self._rows.append(row)

    @property
    def due(self) -> bool:
        return len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._last > FLUSH_S

    def flush(self) -> None:
        self._last = time.monotonic()
        if not self._rows:
            return
        table = pa.Table.from_pylist(self._rows, schema=self.schema)
        # Names sort by time, so that reading in order lets later rows replace earlier ones.
        self._write(table, f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet")
        self._rows = []

    def rows(self, columns: list[str] | None = None, keys: set[str] | None = None) -> Iterator[dict]:
        """Rows (of `keys`), the newest per key, one part in memory at a time; parts that are no Parquet are skipped."""
        parts, newest = self.parts(), {}
        for i, part in enumerate(parts):
            for at, key in enumerate(self._load(part, ["key"]).column("key").to_pylist()):
                if keys is None or key in keys:
                    newest[key] = (i, at)
        wanted: dict[int, list[int]] = {}
        for i, at in newest.values():
            wanted.setdefault(i, []).append(at)
        for i, at in sorted(wanted.items()):
            table = self._load(parts[i], columns).take(pa.array(sorted(at), pa.int64()))
            for batch in table.to_batches(max_chunksize=1024):
                yield from batch.to_pylist()

    def compact(self) -> None:
        """Fold small parts into larger ones, keeping the order; called when a job ends well."""
        group: list[Path] = []
        count = 0
        for part in [*self.parts(), None]:
            rows = pq.read_metadata(part).num_rows if part and self._is_whole(part) else 0
            if part is None or count + rows > PART_ROWS:
                self._fold(group)
                group, count = [], 0
            if part is not None and rows < PART_ROWS // 2:
                group.append(part)
                count += rows

    def _fold(self, parts: list[Path]) -> None:
        if len(parts) < 8:
            return
        # The fold takes the last one's name, so that it stays older than what is written meanwhile.
        self._write(pa.concat_tables([self._load(p, None) for p in parts]), parts[-1].name)
        for part in parts[:-1]:
            part.unlink(missing_ok=True)

    def parts(self) -> list[Path]:
        """The files of this stage, oldest first."""
        return sorted(p for p in self.folder.glob("*.parquet") if not p.name.startswith("."))

    def _is_whole(self, part: Path) -> bool:
        try:
            return pq.read_schema(part).equals(self.schema)
        except (pa.ArrowInvalid, OSError):
            return False

    def _load(self, part: Path, columns: list[str] | None) -> pa.Table:
        if not self._is_whole(part):
            return pa.schema([self.schema.field(n) for n in columns or self.schema.names]).empty_table()
        return pq.read_table(part, columns=columns)

    def _write(self, table: pa.Table, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        hidden = self.folder / f".{name}"
        pq.write_table(table, hidden, compression="zstd")
        with open(hidden, "rb") as f:
            os.fsync(f.fileno())
        os.replace(hidden, self.folder / name)
