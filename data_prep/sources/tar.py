"""WebDataset tars of clips as a source: the members of one key are a clip and its columns."""

from __future__ import annotations

import dataclasses
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from data_prep.media.fetch import member_uri

MOST_TEXT = 1 << 20
"""Bytes; larger .txt and .json members are ignored."""


@dataclasses.dataclass
class _Group:
    """The members of one key."""

    columns: dict[str, object] = dataclasses.field(default_factory=dict)
    media: list[str] = dataclasses.field(default_factory=list)


def tar_rows(path: Path, media_suffixes: frozenset[str], columns: tuple[str, ...]) -> Iterator[dict[str, object]]:
    """Read the media members of an uncompressed tar.

    Only headers and texts are read; names are keys, never paths to write to.

    Args:
        path: the tar.
        media_suffixes: of the members that are clips, in lower case.
        columns: that KEY.json may fill; KEY.txt is the caption.
    Yields:
        One row per clip: its byte range as `uri`, and the columns of its key.
    Raises:
        ValueError: the file is not an uncompressed tar.
    """
    groups: dict[str, _Group] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                group = groups.setdefault(f"{folder}/{stem}", _Group())
                suffix = os.path.splitext(base)[1].lower()
                if suffix in media_suffixes:
                    group.media.append(member_uri(str(path.absolute()), member.offset_data, member.size, suffix))
                elif extension in ("txt", "json") and member.size <= MOST_TEXT:
                    text = tar.extractfile(member)
                    assert text is not None  # as for every regular file
                    group.columns |= _columns_of(text.read(), extension, columns)
    except (tarfile.TarError, OSError) as error:
        if not groups:
            raise ValueError(f"--input: {path} is not readable as an uncompressed tar: {error}") from None
        # The tar is cut short: the members before the cut are complete.
    for group in groups.values():
        for uri in group.media:
            yield {**group.columns, "uri": uri}


def _columns_of(data: bytes, extension: str, columns: tuple[str, ...]) -> dict[str, object]:
    text = data.decode("utf-8", "replace")
    if extension == "txt":
        return {"caption": text}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if k in columns and k != "uri"} if isinstance(found, dict) else {}
