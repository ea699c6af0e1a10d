"""WebDataset tars of clips as a source: the members of one key are a clip and its columns."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.media.fetch import member_uri
from data_prep.media.regular import regular_file
from data_prep.sources.rows import COLUMNS, Row, Unusable, cut
from data_prep.sources.tar_headers import MAX_TEXT, TarDamage, read_members
from lingen.io.redact import printable


@dataclasses.dataclass
class _Group:
    """The members of one key."""

    columns: dict[str, object] = dataclasses.field(default_factory=dict)
    media: list[str] = dataclasses.field(default_factory=list)


def tar_rows(path: Path, media_suffixes: frozenset[str]) -> Iterator[Row]:
    """Read the media members of an uncompressed tar.

    Only headers and texts are read; names are keys, never paths to write to.

    Args:
        path: the tar.
        media_suffixes: of the members that are clips, in lower case.
    Yields:
        One row per clip: its byte range as `uri`, and the columns of its key. Then what cannot be used: sparse members,
        and the rest of a tar that is damaged.
    Raises:
        MediaError: the file may not be opened, or is no regular file.
        TarDamage: the file is not an uncompressed tar at all.
    """
    groups: dict[str, _Group] = {}
    unusable: list[Unusable] = []
    with open(regular_file(path), "rb") as file:
        try:
            for member in read_members(file):
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                group = groups.setdefault(f"{folder}/{stem}", _Group())
                suffix = os.path.splitext(base)[1].lower()
                if suffix in media_suffixes and member.sparse:
                    why = f"bad_tar: {printable(member.name)[:100]} is stored sparse; write the tar without --sparse"
                    unusable.append(Unusable(why, str(path.absolute())))
                elif suffix in media_suffixes:
                    group.media.append(member_uri(str(path.absolute()), member.offset, member.size, suffix))
                elif extension in ("txt", "json") and member.size <= MAX_TEXT and not member.sparse:
                    file.seek(member.offset)
                    group.columns |= _columns_of(file.read(member.size), extension)
        except TarDamage as damage:
            if not groups:
                raise
            unusable.append(Unusable(f"bad_tar: {damage}; clips behind that are lost", str(path.absolute())))
    for group in groups.values():
        for uri in group.media:
            yield {**group.columns, "uri": uri}
    yield from unusable


def _columns_of(data: bytes, extension: str) -> dict[str, object]:
    text = data.decode("utf-8", "replace")
    if extension == "txt":
        return {"caption": cut(text)}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    columns = found.items() if isinstance(found, dict) else ()
    return {
        name: cut(value) if isinstance(value, (str, list, dict)) else value
        for name, value in columns
        if name in COLUMNS and name != "uri"
    }
