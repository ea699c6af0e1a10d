"""The source of clips as one table: a folder, a glob, WebDataset tars, or a manifest (CSV, Parquet, JSONL), local or in
an object store.

The table holds the user's values, cleaned of harmful content (NUL bytes, control characters, names that leave the
source's folder); nothing is opened but the manifest, sidecars and tar headers. Unusable rows stay, with their reason.
"""

from __future__ import annotations

import csv
import dataclasses
import glob
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.media.errors import MediaError
from data_prep.media.fetch import is_remote, local_copy, stamp
from data_prep.sources.tar import tar_rows
from lingen.io.byte_ranges import filesystem

COLUMNS = ("uri", "media_type", "caption", "license", "source", "attribution")
MEDIA_SUFFIXES = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".ogv", ".ogg", ".flv", ".asf"),
        *(".wmv", ".mpg", ".mpeg", ".3gp", ".h264", ".hevc", ".mxf", ".gif"),
        *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".heic", ".heif"),
    ]
)
MANIFEST_SUFFIXES = (".csv", ".parquet", ".jsonl")
MAX_CAPTION = 4000
GROUP = 4096
"""Rows that exist as Python objects at once."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    roots: tuple[str, ...] = ()
    """Folders besides the manifest's own that may contain media. By default absolute names may point anywhere; relative
    ones may never leave the manifest's folder (by .. or a link) unless they end up in one of these."""
    schemes: tuple[str, ...] = ("file", "s3", "gs", "abfs")
    """URI schemes that a manifest may name. Leave http out unless you trust who wrote the manifest."""


SCHEMA = pa.schema([("row", pa.int64()), *((name, pa.string()) for name in COLUMNS), ("bad", pa.string())])
"""row: position in the source; bad: why the row cannot be used at all, "" when it can."""


def read_source(where: str, config: SourceConfig, need_license: bool = True) -> pa.Table:
    """Read the list of clips, without opening them.

    Args:
        where: a folder, glob, tar, manifest, or the URI of a manifest or prefix in an object store.
        config: which files a manifest may name.
        need_license: whether a manifest must have the column `license`.
    Returns:
        Rows of SCHEMA, with `uri` an absolute path or a URI.
    Raises:
        ValueError: there is no such source, it is empty, or a required column (uri; license) is missing.
    """
    if is_remote(where):
        return _read_remote(where, config, need_license)
    if any(c in where for c in "*?["):
        paths = sorted(Path(p) for p in glob.glob(where, recursive=True) if os.path.isfile(p))
        if not paths:
            raise ValueError(f"--input: no file matches {where}")
        return _table(_file_rows(paths), None, config)
    path = Path(where)
    if path.is_dir():
        found = sorted(p for p in _walk(path) if p.suffix.lower() in MEDIA_SUFFIXES | {".tar"})
        if not found:
            raise ValueError(f"--input: {where} contains no media files; name a folder of clips or a manifest")
        return _table(_file_rows(found), None, config)
    if path.suffix.lower() == ".tar" and path.is_file():
        return _table(_file_rows([path]), None, config)
    return _read_manifest(path, path.parent.absolute(), config, need_license, where)


def _read_manifest(path: Path, base: Path | str, config: SourceConfig, need_license: bool, where: str) -> pa.Table:
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        raise ValueError(f"--input: {where} is not a folder, glob or manifest ({', '.join(MANIFEST_SUFFIXES)})")
    if not path.is_file():
        raise ValueError(f"--input: {where} does not exist")
    rows, columns = _READERS[path.suffix.lower()](path)
    for name in ("uri", "license") if need_license else ("uri",):
        if name not in columns:
            names = ", ".join(map(str, sorted(columns)))[:200] or "none"
            raise ValueError(f"--input: {where} has no column {name!r} (it has: {names})")
    table = _table(rows, base, config)
    if not table.num_rows:
        raise ValueError(f"--input: {where} has no rows")
    return table


def _file_rows(paths: Iterable[Path]) -> Iterator[dict]:
    for path in paths:
        if path.suffix.lower() == ".tar":
            yield from tar_rows(path, MEDIA_SUFFIXES, COLUMNS)
        else:
            yield {"uri": str(path.absolute()), **_sidecars(path)}


def _read_remote(where: str, config: SourceConfig, need_license: bool) -> pa.Table:
    """Read a manifest in an object store (relative names start from its folder), or list the media under a prefix."""
    from pyarrow import fs

    scheme = urlsplit(where).scheme
    if scheme not in config.schemes:
        raise ValueError(f"--input: {scheme}:// is not in --source.schemes")
    try:
        store, path = filesystem(where)
        found = store.get_file_info(path)
        listed = store.get_file_info(fs.FileSelector(path, recursive=True)) if not found.is_file else []
    except Exception as error:
        raise ValueError(f"--input: {where} cannot be listed: {' '.join(str(error).split())[:200]}") from None
    if found.is_file:
        try:
            with local_copy(where, max_gb=4) as copy:
                base = where.rpartition("/")[0]
                return _read_manifest(Path(copy), base, config, need_license, where)
        except MediaError as error:
            raise ValueError(f"--input: {where}: {error}") from None
    media = sorted(f.path for f in listed if f.is_file and os.path.splitext(f.path)[1].lower() in MEDIA_SUFFIXES)
    if not media:
        raise ValueError(f"--input: {where} contains no media files, or does not exist")
    return _table(({"uri": f"{scheme}://{path}"} for path in media), None, config)


def rows_of(table: pa.Table) -> Iterator[dict]:
    """Yield the rows of a source, a few thousand in memory at once."""
    for batch in table.to_batches(max_chunksize=GROUP):
        yield from batch.to_pylist()


def digest_source(where: str) -> str:
    """A digest that changes with the list of clips: of the manifest's content, or of names, sizes and times."""
    from lingen.io.manifest import digest, file_digest

    if is_remote(where):
        table = read_source(where, SourceConfig(schemes=(urlsplit(where).scheme,)), need_license=False)
        with ThreadPoolExecutor(16) as pool:
            return digest([table.to_pylist(), list(pool.map(stamp, table["uri"].to_pylist()))])
    path = Path(where)
    if path.is_file():
        return file_digest(path)
    files = sorted(_walk(path)) if path.is_dir() else sorted(Path(p) for p in glob.glob(where, recursive=True))
    return digest([[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files if p.is_file()])


def clean_text(text: object, limit: int = MAX_CAPTION) -> str:
    """One line of printable text, at most `limit` long: control and direction characters out, spaces folded."""
    if text is None or (isinstance(text, float) and text != text):
        return ""
    # Cut to twice the limit first: folding a gigabyte of spaces takes time too.
    whole = str(text)[: 2 * limit].encode("utf-8", "replace").decode("utf-8")
    return " ".join(CONTROL.sub(" ", whole).split())[:limit].strip()


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(root, name)


def _sidecars(path: Path) -> dict[str, str]:
    """Columns from the files beside a clip: the caption from clip.txt, any of the manifest's from clip.json."""
    columns: dict[str, str] = {}
    for suffix in (".json", ".txt"):
        side = path.with_suffix(suffix)
        try:
            text = side.read_text("utf-8", "replace") if side.is_file() and side.stat().st_size < 1 << 20 else ""
            parsed = json.loads(text) if suffix == ".json" and text else {"caption": text} if text else {}
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(parsed, dict):
            columns |= {k: v for k, v in parsed.items() if k in COLUMNS and k != "uri" and isinstance(v, str)}
    return columns


def _read_csv(path: Path) -> tuple[Iterator[dict], list[str]]:
    csv.field_size_limit(1 << 24)

    def lines() -> Iterator[str]:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as f:
            for line in f:
                yield line.replace("\0", "")

    reader = csv.DictReader(lines())
    try:
        columns = [c for c in reader.fieldnames or [] if c]
    except csv.Error:
        columns = []
    return _csv_rows(reader), columns


def _csv_rows(reader: csv.DictReader) -> Iterator[dict]:
    row: dict[Any, Any]
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = {"bad": f"bad_row: {error}"}
        yield row


def _read_jsonl(path: Path) -> tuple[Iterator[dict], list[str]]:
    def rows() -> Iterator[dict]:
        with open(path, encoding="utf-8-sig", errors="replace") as f:
            for line in f:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    row = {"bad": f"bad_row: {error}"}
                yield row if isinstance(row, dict) else {"bad": "bad_row: not an object"}

    columns = list(dict.fromkeys(key for row in rows() for key in row if key != "bad"))
    return rows(), columns


def _read_parquet(path: Path) -> tuple[Iterator[dict], list[str]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"--input: {path} is not readable as Parquet: {error}") from None
    names = [n for n in file.schema_arrow.names if n in COLUMNS]
    rows = (row for batch in file.iter_batches(columns=names) for row in batch.to_pylist())
    return rows, file.schema_arrow.names


_READERS: dict[str, Callable[[Path], tuple[Iterator[dict], list[str]]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _table(rows: Iterable[dict], base: Path | str | None, config: SourceConfig) -> pa.Table:
    """Rows of SCHEMA; `base` as in `locate`."""
    local = [] if base is None or (isinstance(base, str) and is_remote(base)) else [base]
    roots = [os.path.realpath(p) for p in (*local, *config.roots)]
    batches: list[pa.RecordBatch] = []
    out: list[dict[str, object]] = []
    for i, row in enumerate(rows):
        bad = clean_text(row.get("bad"), 200)
        uri, bad = ("", bad) if bad else locate(row.get("uri"), base, roots, config.schemes)
        columns = {n: clean_text(row.get(n), MAX_CAPTION if n == "caption" else 1000) for n in COLUMNS[1:]}
        out.append({"row": i, "uri": uri, "bad": bad, **columns})
        if len(out) == GROUP:
            batches.append(pa.RecordBatch.from_pylist(out, schema=SCHEMA))
            out = []
    batches.append(pa.RecordBatch.from_pylist(out, schema=SCHEMA))
    return pa.Table.from_batches(batches).combine_chunks()


def locate(uri: object, base: Path | str | None, roots: list[str], schemes: tuple[str, ...]) -> tuple[str, str]:
    """Resolve a name from a source and decide whether it may be read.

    Absolute local names may point anywhere while the base is the only root: their author meant them.

    Args:
        uri: the name.
        base: where relative names start, a folder or a remote prefix; None for names that were found by listing.
        roots: folders that local names may not leave, as real paths.
        schemes: URI schemes that are allowed.
    Returns:
        The absolute path or URI, and why it is refused, "" if it is not.
    """
    if not isinstance(uri, str) or not uri.strip():
        return "", "bad_row: no uri"
    uri = uri.strip()
    shown = clean_text(uri, 1000)
    if "\0" in uri or shown != uri:
        return shown, "bad_row: the uri holds control characters or is too long"
    scheme = urlsplit(uri).scheme if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", uri) else ""
    if scheme and scheme != "file":
        if scheme not in schemes or "::" in uri:
            return uri, f"scheme_not_allowed: {scheme}:// is not in --source.schemes"
        return uri, ""
    local = uri[len("file://") :] if scheme else uri
    if base is None:
        return local, ""
    if isinstance(base, str) and is_remote(base):
        name = posixpath.normpath(local)
        if scheme or name.startswith(("/", "..")):
            return local, "outside_root: a manifest in an object store may only name files below its folder"
        return f"{base}/{name}", ""
    path = os.path.normpath(os.path.join(base, local))
    if os.path.isabs(local) and len(roots) == 1:
        return path, ""
    real = os.path.realpath(path)
    if not any(real == root or real.startswith(root.rstrip("/") + "/") for root in roots):
        return path, "outside_root: the file lies outside the manifest's folder and --source.roots"
    return path, ""
