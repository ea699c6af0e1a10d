"""The index file of a bucket, index.parquet: one row per sample, and in the schema's metadata how to read the tensors.

The metadata (key "lingen", JSON) holds for latents the TAE's digest, scale and shift, dtype and frames per second; for
text the encoder's name, weights, digest and width. So an index explains itself even when copied out of its folder.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lingen.data.index_checks import MOST_ROWS, check_format, check_table
from lingen.io.manifest import digest, write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

INDEX = "index.parquet"
LOCATION = ("key", "shard", "offset", "size", "checksum")
"""Columns that locate a sample's latent or text."""
METADATA_LOCATION = ("metadata_offset", "metadata_size", "metadata_checksum")
"""Columns that locate the json member of the same key."""
_KEY = b"lingen"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentFormat:
    """What a reader must know to use a bucket's latents."""

    bucket: str
    resolution: int
    """Nominal resolution (256 for 256p) that the bucket belongs to."""
    fps: float
    dtype: str
    tae_digest: str
    scale: list[float]
    """Per channel; latents are stored normalised: (raw - shift) / scale. For readers that decode with another tool."""
    shift: list[float]
    version: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFormat:
    """What a reader must know to use one encoder's text embeddings of a bucket."""

    bucket: str
    dtype: str
    name: str
    """The encoder's folder below text/."""
    model: str
    """What it is, and where its weights come from."""
    digest: str
    dim: int
    version: int = 2


def write_index(path: str | Path, rows: Iterable[dict[str, Any]], form: LatentFormat | TextFormat) -> None:
    """Write a bucket's index atomically.

    Args:
        path: the file.
        rows: one per sample, with the columns that latents or text have (docs/shards.md).
        form: the format of the tensors; its class tells latents from text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _text_schema() if isinstance(form, TextFormat) else _latent_schema()
    schema = schema.with_metadata({_KEY: json.dumps(dataclasses.asdict(form), sort_keys=True)})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def read_index(
    data: bytes | str | Path, columns: Sequence[str] | None = None, name: str | None = None
) -> tuple[pa.Table, LatentFormat | TextFormat]:
    """Read an index, and check that what it says can be used (lingen/data/index_checks.py).

    Args:
        data: its path, or its bytes.
        columns: which to read; None: all.
        name: of the file, for errors; None: its path.

    Returns:
        The table and the format.

    Raises:
        ValueError: it is no index, or one that no encoding writes; the message has file, column and value.
        FileNotFoundError: there is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = name or (INDEX if isinstance(data, bytes) else str(data))
    # Not pq.read_table: that imports pyarrow.dataset and pandas, which takes longer than reading.
    source = pa.BufferReader(data) if isinstance(data, bytes) else data
    try:
        with pq.ParquetFile(source, read_dictionary=["shard"]) as file:
            if not 0 < file.metadata.num_rows <= MOST_ROWS:
                raise ValueError(f"{name}: {file.metadata.num_rows} rows; an index has 1 to {MOST_ROWS:,}")
            table = file.read(columns)
        form = _read_format(table, name)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name}: not readable as Parquet: {error}") from None
    check_format(form, name)
    schema = _text_schema() if isinstance(form, TextFormat) else _latent_schema()
    check_table(table, schema, columns or schema.names, name)
    return table, form


def _read_format(table: pa.Table, name: str) -> LatentFormat | TextFormat:
    """The format in the schema's metadata, not checked yet."""
    try:
        form = json.loads((table.schema.metadata or {})[_KEY])
        return (LatentFormat if "tae_digest" in form else TextFormat)(**form)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: its metadata do not say how to read the tensors: {error!r:.200}") from None


def first_value(data: bytes, column: str) -> Any:
    """The value of the first row in one column, without reading the others; None where there is no such column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    batch = next(pq.ParquetFile(pa.BufferReader(data)).iter_batches(1, columns=[column]))
    return batch[column][0].as_py() if column in batch.schema.names else None


def number_column(table: pa.Table, name: str) -> np.ndarray:
    """A column of numbers without a copy (pyarrow's own to_numpy imports pandas)."""
    return np.from_dlpack(table[name].combine_chunks())


def samples_digest(manifest: dict[str, Any]) -> str:
    """Digest of all samples of an encoded folder, from its manifest: the indexes hold a checksum of every member."""
    return digest({name: value for name, value in manifest["outputs"].items() if name.endswith(".parquet")})


def _text_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([*_location_fields(), ("length", pa.int32())])


def _latent_schema() -> pa.Schema:
    import pyarrow as pa

    metadata = [("metadata_offset", pa.int64()), ("metadata_size", pa.int64()), ("metadata_checksum", pa.uint32())]
    facts = [("clip_id", pa.string()), ("license", pa.string()), ("source", pa.string()), ("seconds", pa.float64())]
    facts += [("shape", pa.list_(pa.int32())), ("canary_psnr", pa.float64())]
    return pa.schema([*_location_fields(), *metadata, *facts])


def _location_fields() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    return [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("checksum", pa.uint32()),
    ]
