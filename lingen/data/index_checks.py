"""What an index may say: an encoded folder may come from anyone, and everything that its indexes name is checked here.

Shards are named without folders, keys as `sample_key` makes them, bytes lie within sane bounds, and types are those of
the schema. The checks are columnwise: an index of a million samples opens about as fast as without them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lingen.data.buckets import Bucket
from lingen.data.shards import DTYPES, LEAST_KEY, MOST_KEY, MOST_MEMBER_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

SHARD = r"[A-Za-z0-9_-]{1,64}\.tar"
"""A shard's name."""
ENCODER = r"[A-Za-z0-9_-]{1,128}"
"""The name of a text encoder's folder, as on the command line (lingen/text/encoders.py)."""
MOST_ROWS = 100_000_000
MOST_SHARD_BYTES = 1 << 44
MOST_HEADER_BYTES = 1024
"""Of a safetensors file with one tensor."""
MOST_TEXT = 1024
"""Characters of an id or a name."""
_KEY_BYTES = (string.ascii_letters + string.digits + "_-").encode()
_CONTROL = r"[\x00-\x1f\x7f]"


def check_table(table: pa.Table, schema: pa.Schema, columns: Sequence[str], name: str) -> None:
    """Check the rows of an index.

    Args:
        table: the columns that have been read.
        schema: all columns that such an index has.
        columns: those that were asked for.
        name: of the file, for errors.

    Raises:
        ValueError: a column is missing or of another type, or a value is out of bounds; the message has both.
    """
    for column in columns:
        if column not in table.column_names:
            raise ValueError(f"{name}: there is no column {column}; run jobs/encode.py again")
    for column in table.column_names:
        if column not in schema.names:
            continue  # one more than we know is not read
        kind, expected = table.schema.field(column).type, schema.field(column).type
        if kind != expected and not (column == "shard" and getattr(kind, "value_type", None) == expected):
            raise ValueError(f"{name}: column {column} holds {kind}, not {expected}")
        if table[column].null_count and column != "canary_psnr":
            raise ValueError(f"{name}: a row has no {column}")
        _check_column(column, [chunk for chunk in table[column].chunks if len(chunk)], name)


def check_format(form: Any, name: str) -> None:
    """Check what an index says of its tensors: a LatentFormat or TextFormat with values of any type.

    Raises:
        ValueError: a value cannot be right; the message has its name.
    """
    checks: dict[str, Callable[[Any], Any]] = {
        "bucket": lambda v: isinstance(v, str) and Bucket.parse(v),
        "dtype": lambda v: v in DTYPES,
        "version": lambda v: isinstance(v, int),
        "resolution": lambda v: isinstance(v, int) and 0 < v < 1 << 16,
        "fps": lambda v: _is_number(v) and 0 <= v < 1e4,
        "tae_digest": _is_short_text,
        "scale": lambda v: _are_numbers(v) and all(v),
        "shift": _are_numbers,
        "name": lambda v: isinstance(v, str) and re.fullmatch(ENCODER, v),
        "model": _is_short_text,
        "digest": _is_short_text,
        "dim": lambda v: isinstance(v, int) and 0 < v < 1 << 20,
    }
    for field in dataclasses.fields(form):
        value = getattr(form, field.name)
        try:
            good = checks[field.name](value)
        except (ValueError, TypeError):
            good = False
        if not good:
            raise ValueError(f"{name}: {field.name} is {_short(value)}, which no encoding writes")


def check_shape(shape: Any, bucket: Bucket, dtype: str, sizes: Any, name: str) -> None:
    """Check the shape of a bucket's latents: it must fit the bucket, and the bytes of every sample must fit the shape.

    Args:
        shape: C, T, H, W; a value of any type.
        bucket: which bucket.
        dtype: of the latents.
        sizes: bytes of the samples' members, as an array of numpy.
        name: of the file, for errors.

    Raises:
        ValueError: it does not.
    """
    most = (1 << 16, bucket.frames, bucket.height, bucket.width)
    is_shape = isinstance(shape, list) and len(shape) == 4 and all(isinstance(side, int) for side in shape)
    if not is_shape or not all(0 < have <= limit for have, limit in zip(shape, most)):
        raise ValueError(f"{name}: latents of shape {_short(shape)} in bucket {bucket.name}")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if sizes.min() < size or sizes.max() > size + MOST_HEADER_BYTES:
        raise ValueError(
            f"{name}: members of {sizes.min()} to {sizes.max()} bytes hold no latents of shape {shape}, {dtype}"
        )


def _check_column(column: str, chunks: list[pa.Array], name: str) -> None:
    if column == "key":
        _check_keys(chunks, name)
    elif column == "shard":
        _check_shards(chunks, name)
    elif column.endswith("offset"):
        _check_bounds(column, chunks, 0, MOST_SHARD_BYTES, name)
    elif column.endswith("size"):
        _check_bounds(column, chunks, 1, MOST_MEMBER_BYTES, name)
    elif column == "length":
        _check_bounds(column, chunks, 0, MOST_MEMBER_BYTES, name)
    elif column == "seconds":
        _check_bounds(column, chunks, 0, 1e9, name)
    elif column == "shape":
        _check_shapes(chunks, name)
    elif column in ("clip_id", "license", "source"):
        _check_text(column, chunks, name)


def _check_shards(chunks: list[pa.Array], name: str) -> None:
    try:
        shards = {shard for chunk in chunks for shard in chunk.dictionary.to_pylist()}
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: shard is not text: {error}") from None
    for shard in shards:
        if not re.fullmatch(SHARD, shard or ""):
            raise ValueError(f"{name}: shard {_short(shard)} is not the plain name of a tar")


def _check_keys(chunks: list[pa.Array], name: str) -> None:
    """Check the keys' characters and lengths, on their bytes: pyarrow.compute takes longer to import than this runs."""
    for chunk in chunks:
        _, ends, data = chunk.buffers()
        ends = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        text = data.slice(int(ends[0]), int(ends[-1] - ends[0])).to_pybytes() if data else b""
        lengths = np.diff(ends)
        if text.translate(None, _KEY_BYTES) or lengths.min() < LEAST_KEY or lengths.max() > MOST_KEY:
            keys = (text[begin - ends[0] : end - ends[0]] for begin, end in itertools.pairwise(ends))
            bad = next(key for key in keys if key.translate(None, _KEY_BYTES) or not LEAST_KEY <= len(key) <= MOST_KEY)
            raise ValueError(f"{name}: key {_short(bad)} is not like those of an encoding")


def _check_bounds(column: str, chunks: list[pa.Array], least: float, most: float, name: str) -> None:
    for chunk in chunks:
        _check_numbers(column, np.from_dlpack(chunk), least, most, name)


def _check_numbers(column: str, numbers: np.ndarray, least: float, most: float, name: str) -> None:
    for value in (numbers.min(), numbers.max()):  # nan where one is
        if not least <= value <= most:
            raise ValueError(f"{name}: {column} {value} is not within {least:,} and {most:,}")


def _check_shapes(chunks: list[pa.Array], name: str) -> None:
    for chunk in chunks:
        sides = chunk.flatten()
        if sides.null_count or (np.diff(np.from_dlpack(chunk.offsets)) != 4).any():
            raise ValueError(f"{name}: a shape has not four sides")
        _check_numbers("shape", np.from_dlpack(sides), 1, 1 << 24, name)


def _check_text(column: str, chunks: list[pa.Array], name: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pa.chunked_array(chunks)
    try:
        values.validate(full=True)  # pyarrow reads bytes that are not UTF-8 too
    except pa.ArrowInvalid as error:
        raise ValueError(f"{name}: {column} is not text: {error}") from None
    if column == "clip_id":
        bad = pc.or_(pc.greater(pc.utf8_length(values), MOST_TEXT), pc.match_substring_regex(values, _CONTROL))
        if (row := pc.index(bad, True).as_py()) >= 0:
            raise ValueError(f"{name}: clip_id {_short(values[row].as_py())} is not like those of an encoding")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and len(value) < 1 << 16 and all(_is_number(v) for v in value)


def _is_short_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MOST_TEXT and value.isprintable()


def _short(value: object) -> str:
    """The value in quotes, without control characters."""
    text = json.dumps(value.decode(errors="replace") if isinstance(value, bytes) else value, default=str)
    return text if len(text) < 120 else f"{text[:100]}..."
