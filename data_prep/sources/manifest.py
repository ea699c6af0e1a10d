"""The source of clips as one table: a folder, a glob, WebDataset tars, or a manifest (CSV, Parquet, JSONL), local or in
an object store.

The table holds the user's values, cleaned of harmful content (NUL bytes, control characters, passwords, names that
leave the source's folder); nothing is opened but the manifest, sidecars and tar headers. Unusable rows stay, with their
reason.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from data_prep.media.errors import MediaError
from data_prep.media.fetch import is_remote, local_copy, stamp
from data_prep.media.regular import regular_file
from data_prep.sources.columns import check_columns, mapping_words, near_names, renamed
from data_prep.sources.listing import expand, fixed_folder, is_pattern, read_sidecar, sidecars, walk
from data_prep.sources.locate import Locator
from data_prep.sources.readers import GROUP, READERS
from data_prep.sources.rows import COLUMNS, MAX_CAPTION, MAX_TEXT, SCHEMA, Row, Unusable, clean_text
from data_prep.sources.tar import tar_rows
from data_prep.sources.tar_headers import TarDamage
from lingen.io.redact import printable, redact
from lingen.io.stores import filesystem, quote_name, without_options

log = logging.getLogger(__name__)

MEDIA_SUFFIXES = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".ogv", ".ogg", ".flv", ".asf"),
        *(".wmv", ".mpg", ".mpeg", ".3gp", ".h264", ".hevc", ".mxf", ".gif"),
        *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".heic", ".heif"),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    roots: tuple[str, ...] = ()
    """Folders besides the source's own that may contain media. By default absolute names in a manifest may point
    anywhere; relative ones, and the files of a folder, may never leave the manifest's folder (by .. or a link) unless
    they end up in one of these."""
    schemes: tuple[str, ...] = ("file", "s3", "gs", "abfs")
    """URI schemes that a manifest may name. Leave http out unless you trust who wrote the manifest."""


def read_source(
    where: str,
    config: SourceConfig,
    need_license: bool = True,
    need_caption: bool = False,
    columns: Mapping[str, str] | None = None,
) -> pa.Table:
    """Read the list of clips, without opening them.

    Args:
        where: a folder, glob, tar, manifest, or the URI of a manifest or prefix in an object store.
        config: which files a manifest may name.
        need_license: whether a manifest must have the column `license`.
        need_caption: whether it must have the column `caption`.
        columns: our column -> the manifest's, where that has another name.
    Returns:
        Rows of SCHEMA, with `uri` an absolute path or a URI.
    Raises:
        ValueError: there is no such source, it is empty, or a column that is required (uri; license; caption) or
            mapped is missing.
    """
    required = ["uri", *(["license"] if need_license else []), *(["caption"] if need_caption else [])]
    wanted = _WantedColumns(required, columns or {})
    if is_remote(where):
        return _read_remote(where, config, wanted)
    if is_pattern(where):
        wanted.refuse(where)
        paths = [p for p in expand(where) if p.is_file()]
        if not paths:
            raise ValueError(f"--input: no file matches {where}")
        return _not_empty(_read_files(paths, fixed_folder(where), config), where)
    path = Path(where)
    if os.path.isdir(path):
        wanted.refuse(where)
        found = sorted(p for p in walk(path) if p.suffix.lower() in MEDIA_SUFFIXES | {".tar"})
        if not found:
            raise ValueError(f"--input: {where} contains no media files; name a folder of clips or a manifest")
        return _not_empty(_read_files(found, path, config), where)
    if path.suffix.lower() == ".tar" and os.path.lexists(path):
        wanted.refuse(where)
        try:
            table = _table(tar_rows(path, MEDIA_SUFFIXES), Locator(None, (path, *config.roots), config.schemes))
        except (TarDamage, MediaError, OSError) as error:
            raise ValueError(f"--input: {where} is not readable as an uncompressed tar: {error}") from None
        return _not_empty(table, where)
    return _read_manifest(path, path.parent.absolute(), config, wanted, where)


@dataclasses.dataclass(frozen=True)
class _WantedColumns:
    """What a manifest must have, and how its columns are called."""

    required: Sequence[str]
    mapping: Mapping[str, str]

    def refuse(self, where: str) -> None:
        """Raise ValueError where columns are mapped, but there are none."""
        if self.mapping:
            raise ValueError(
                f"--columns: {where} is no manifest; captions are read from clip.txt, other columns from clip.json, "
                "beside clip.mp4"
            )


def _read_manifest(path: Path, base: Path | str, config: SourceConfig, wanted: _WantedColumns, where: str) -> pa.Table:
    if path.suffix.lower() not in READERS:
        raise ValueError(f"--input: {where} is not a folder, glob or manifest ({', '.join(READERS)})")
    if not os.path.lexists(path):
        raise ValueError(f"--input: {where} does not exist")
    try:
        names = {*COLUMNS, *wanted.mapping.values()}
        rows, columns = READERS[path.suffix.lower()](Path(regular_file(path)), where, names)
        check_columns(where, columns, wanted.mapping, wanted.required)
        if near := near_names(columns, wanted.mapping):
            log.warning("%s: not used: %s; to use: --columns %s", where, *_not_used(near))
        table = _table(renamed(rows, wanted.mapping), Locator(base, config.roots, config.schemes))
    except (MediaError, OSError) as error:
        raise ValueError(f"--input: {where} cannot be read: {error}") from None
    return _not_empty(table, where)


def _not_used(near: Mapping[str, str]) -> tuple[str, str]:
    return ", ".join(map(repr, near.values())), mapping_words(near, near)


def _not_empty(table: pa.Table, where: str) -> pa.Table:
    if not table.num_rows:
        raise ValueError(f"--input: {where} has no rows")
    return table


def _read_files(paths: Iterable[Path], folder: Path, config: SourceConfig) -> pa.Table:
    """The files of a folder, with their sidecars and the members of tars, as long as they do not link out of it."""
    locator = Locator(None, (folder, *config.roots), config.schemes)
    return _table((row for path in paths for row in _file_rows(path, locator)), locator)


def _file_rows(path: Path, locator: Locator) -> Iterator[Row]:
    uri = str(path.absolute())
    if path.suffix.lower() == ".tar" and locator.inside(uri):
        try:
            yield from tar_rows(path, MEDIA_SUFFIXES)
        except (TarDamage, OSError) as error:
            yield Unusable(f"bad_tar: {error}", uri)
        except MediaError as error:
            yield Unusable(f"{error.reason}: {error.detail}", uri)
        return
    columns: dict[str, object] = {}
    for side in sidecars(path):
        if not locator.inside(side.absolute()):
            yield Unusable(f"outside_root: {side.name} beside it links out of the source's folder", uri)
            return
        columns |= read_sidecar(side)
    yield {"uri": uri, **columns}


def _read_remote(where: str, config: SourceConfig, wanted: _WantedColumns) -> pa.Table:
    """Read a manifest in an object store (relative names start from its folder), or list the media under a prefix."""
    from pyarrow import fs

    plain, shown = without_options(where), redact(where)
    scheme = plain.partition("://")[0]
    if scheme not in config.schemes:
        raise ValueError(f"--input: {scheme}:// is not in --source.schemes")
    if plain != where:
        log.warning("--input: options and credentials in it reach the list, not the media; set AWS_ENDPOINT_URL etc.")
    try:
        store, path = filesystem(where)
        found = store.get_file_info(path)
        listed = store.get_file_info(fs.FileSelector(path, recursive=True)) if not found.is_file else []
    except Exception as error:
        raise ValueError(f"--input: {shown} cannot be listed: {printable(str(error))[:200]}") from None
    if found.is_file:
        try:
            with local_copy(where, max_gb=4, open_store=filesystem) as copy:
                return _read_manifest(Path(copy), plain.rpartition("/")[0], config, wanted, shown)
        except MediaError as error:
            raise ValueError(f"--input: {shown}: {error}") from None
    wanted.refuse(shown)
    media = sorted(f.path for f in listed if f.is_file and os.path.splitext(f.path)[1].lower() in MEDIA_SUFFIXES)
    if not media:
        raise ValueError(f"--input: {shown} contains no media files, or does not exist")
    names = (name.removeprefix(path).lstrip("/") for name in media)
    rows: Iterator[Row] = ({"uri": f"{plain.rstrip('/')}/{quote_name(name)}"} for name in names)
    return _table(rows, Locator(None, config.roots, config.schemes))


def rows_of(table: pa.Table) -> Iterator[dict]:
    """Yield the rows of a source, a few thousand in memory at once."""
    for batch in table.to_batches(max_chunksize=GROUP):
        yield from batch.to_pylist()


def digest_source(where: str, config: SourceConfig, columns: Mapping[str, str] | None = None) -> str:
    """A digest that changes with the list of clips: of the manifest's content, or of names, sizes and times.

    Args:
        where, config, columns: as of `read_source`.
    """
    from lingen.io.manifest import digest, file_digest

    if is_remote(where):
        table = read_source(where, config, need_license=False, columns=columns)
        readable = [row["uri"] if not row["bad"] else "" for row in rows_of(table)]
        with ThreadPoolExecutor(16) as pool:
            return digest([table.to_pylist(), list(pool.map(stamp, readable))])
    path = Path(where)
    if path.is_file():
        return file_digest(path)
    files = sorted(walk(path)) if path.is_dir() else expand(where)
    found = [(p, os.stat(p)) for p in files if p.is_file()]
    return digest([[str(p), status.st_size, status.st_mtime_ns] for p, status in found])


def _table(rows: Iterable[Row], locator: Locator) -> pa.Table:
    """Rows of SCHEMA."""
    batches: list[pa.RecordBatch] = []
    out: list[dict[str, object]] = []
    for i, row in enumerate(rows):
        if isinstance(row, Unusable):
            known = {"uri": clean_text(row.uri, MAX_TEXT), "bad": clean_text(row.why, 300)}
            out.append({"row": i, **dict.fromkeys(COLUMNS, ""), **known})
        else:
            uri, bad = locator.locate(row.get("uri"))
            columns = {n: clean_text(row.get(n), MAX_CAPTION if n == "caption" else MAX_TEXT) for n in COLUMNS[1:]}
            out.append({"row": i, "uri": uri, "bad": bad, **columns})
        if len(out) == GROUP:
            batches.append(pa.RecordBatch.from_pylist(out, schema=SCHEMA))
            out = []
    batches.append(pa.RecordBatch.from_pylist(out, schema=SCHEMA))
    return pa.Table.from_batches(batches).combine_chunks()
