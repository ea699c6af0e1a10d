"""Manifests as rows: CSV, JSON lines and Parquet, however damaged or hostile, in bounded memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.sources.rows import COLUMNS, MAX_CAPTION, Row, Unusable
from lingen.io.redact import printable

MAX_LINE = 1 << 24
"""Characters of a line or a CSV field; a longer one costs its row."""
MOST_NAMES = 100
"""Names of other columns that are remembered, for messages."""
GROUP = 4096
"""Rows that exist as Python objects at once."""

Read = tuple[Iterator[Row], list[str]]
"""(the rows, names of the columns)"""


def read_csv(path: Path, where: str, wanted: Collection[str] = COLUMNS) -> Read:
    """The rows of a CSV file with a header.

    Args:
        path: of the file.
        where: what the user calls it.
        wanted: columns that are needed; the rows have all of them.
    Raises:
        OSError: it cannot be read.
    """
    csv.field_size_limit(MAX_LINE)
    file = open(path, encoding="utf-8-sig", errors="replace", newline="")  # noqa: SIM115 (_Lines closes it)
    reader = csv.DictReader(_Lines(file, without="\0"))
    try:
        columns = [c for c in reader.fieldnames or [] if c]
    except csv.Error:
        columns = []
    return _csv_rows(reader), columns


class _Lines:
    """The lines of a text file, without a certain character. A line that is too long raises csv.Error; the next one
    follows it.

    A class, since a generator ends when it raises.
    """

    def __init__(self, file: IO[str], without: str = ""):
        self._file, self._without = file, without

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE)
        if not line:
            self._file.close()
            raise StopIteration
        if len(line) == MAX_LINE and line[-1] not in "\r\n":
            while (rest := self._file.readline(MAX_LINE)) and len(rest) == MAX_LINE and rest[-1] not in "\r\n":
                pass
            raise csv.Error(f"the line is longer than {MAX_LINE} characters")
        return line.replace(self._without, "") if self._without else line


def _csv_rows(reader: csv.DictReader) -> Iterator[Row]:
    row: Row
    while True:
        try:
            row = dict(next(reader))
        except StopIteration:
            return
        except csv.Error as error:
            row = Unusable(f"bad_row: {error}")
        yield row


def read_jsonl(path: Path, where: str, wanted: Collection[str] = COLUMNS) -> Read:
    """The rows of a file with one JSON object per line; the columns are all names that occur.

    Args:
        path: of the file.
        where: what the user calls it.
        wanted: columns that are needed; the rows have all of them.
    Raises:
        OSError: it cannot be read.
    """
    columns: dict[str, None] = {}
    for row in _json_rows(path):
        for name in row if isinstance(row, dict) else ():
            if name in wanted or len(columns) < MOST_NAMES:
                columns[name] = None
    return _json_rows(path), list(columns)


def _json_rows(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", errors="replace") as f:
        lines = _Lines(f)
        while True:
            try:
                line = next(lines)
                if not line.strip():
                    continue
                row = json.loads(line)
            except StopIteration:
                return
            except (csv.Error, ValueError, RecursionError) as error:
                yield Unusable(f"bad_row: {error}")
            else:
                yield row if isinstance(row, dict) else Unusable("bad_row: not an object")


def read_parquet(path: Path, where: str, wanted: Collection[str] = COLUMNS) -> Read:
    """The rows of a Parquet file.

    Args:
        path: of the file.
        where: what the user calls it.
        wanted: columns that are read.
    Raises:
        ValueError: it is not readable; for damage in its middle, when its rows are read.
    """
    try:
        schema = pq.read_schema(path)
        columns = [str(name) for name in schema.names]
        texts = [field.name for field in schema if field.name in wanted and pa.types.is_string(field.type)]
        # As dictionaries: a text that a million rows share is in memory once.
        file = pq.ParquetFile(path, read_dictionary=texts)
        count, size = file.metadata.num_rows, path.stat().st_size
    except Exception as error:  # damage may raise anything
        raise _unreadable(where, error) from None
    if count > 1_000_000 + 64 * size:
        raise ValueError(f"--input: {where} claims {count} rows in {size} bytes; it is damaged or hostile")
    return _parquet_rows(file, where, [n for n in columns if n in wanted]), columns


def _parquet_rows(file: pq.ParquetFile, where: str, names: list[str]) -> Iterator[Row]:
    batches = file.iter_batches(batch_size=GROUP, columns=names)
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else _plain_rows(batch)
        except Exception as error:  # damage may raise anything
            raise _unreadable(where, error) from None
        if batch is None:
            return
        yield from rows


def _plain_rows(batch: pa.RecordBatch) -> list[Row]:
    values = {name: _plain_values(column) for name, column in zip(batch.schema.names, batch.columns)}
    return [dict(zip(values, row)) for row in zip(*values.values())]


def _plain_values(column: pa.Array) -> list[Any]:
    """A column as Python values, with texts cut to what is looked at, whatever their bytes."""
    if pa.types.is_dictionary(column.type):
        texts = _plain_values(column.dictionary)
        return [None if i is None else texts[i] for i in column.indices.to_pylist()]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        raw = column.cast(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
        short = pc.binary_slice(raw, 0, 8 * MAX_CAPTION)
        return [None if text is None else text.decode("utf-8", "replace") for text in short.to_pylist()]
    return column.to_pylist()


def _unreadable(where: str, error: Exception) -> ValueError:
    return ValueError(f"--input: {where} is not readable as Parquet: {printable(str(error))[:300]}")


Reader = Callable[[Path, str, Collection[str]], Read]
READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}
"""By suffix."""
