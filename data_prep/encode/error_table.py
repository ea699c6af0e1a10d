"""errors.parquet of an encoded folder: a row for each segment that gives no sample, or not the sample it should give.

Whatever one segment raises becomes a row. What nobody expected (`internal_error`) is a bug of ours: such a row ends
with the command that replays it, and many of them in a row stop the job.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.encode.segments import Segment
from data_prep.media.errors import INTERNAL, MediaError, shell_word

ERRORS = "errors.parquet"
ERROR_COLUMNS = ("key", "clip_id", "uri", "bucket", "reason", "detail")

ErrorRow = dict[str, str]
"""A value for each of ERROR_COLUMNS."""


def error_row(segment: Segment, error: MediaError, tae: str | None = None) -> ErrorRow:
    """The row of a segment that cannot be read or encoded.

    Args:
        segment: which.
        error: why.
        tae: folder of the TAE that was encoding it, if one was.
    """
    source = segment.provenance
    about = {"key": segment.key, "clip_id": source.clip_id, "uri": source.uri, "bucket": segment.bucket}
    words = ["frames", source.uri, "--bucket", segment.bucket, "--start-s", str(segment.start_s)]
    words += ["--fps", str(source.fps), *(["--tae", tae] if tae else [])]
    return about | {"reason": error.reason, "detail": with_replay(error, words)}


def with_replay(error: MediaError, words: Iterable[str]) -> str:
    """The detail of an error; of an internal one with the command that replays it.

    Args:
        error: which.
        words: arguments of data_prep/encode/replay.py.
    """
    if error.reason != INTERNAL:
        return error.detail
    return f"{error.detail}; replay: python -m data_prep.encode.replay {' '.join(map(shell_word, words))}"


def write_errors(folder: Path, rows: Iterable[ErrorRow]) -> None:
    """Write the table of an encoded folder."""
    table = pa.Table.from_pylist(list(rows), schema=pa.schema([(name, pa.string()) for name in ERROR_COLUMNS]))
    pq.write_table(table, folder / ERRORS)


def read_errors(folder: Path) -> list[ErrorRow]:
    """Read the table; no rows where there is none (folders that jobs/retext.py wrote before it shared the table).

    Raises:
        ValueError: the file is no such table.
    """
    path = folder / ERRORS
    if not path.is_file():
        return []
    try:
        return pq.read_table(path, columns=list(ERROR_COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as a table of {', '.join(ERROR_COLUMNS)}: {error}") from None
