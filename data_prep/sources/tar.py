"""WebDataset tars of clips as a source: members with one key are one clip and what is said of it."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from data_prep.media.fetch import member_uri

MOST_TEXT = 1 << 20


def tar_rows(path: Path, media_suffixes: frozenset[str], columns: tuple[str, ...]) -> Iterator[dict]:
    """One row per media member of an uncompressed tar: its byte range as the URI, the caption from KEY.txt, and other
    columns from KEY.json. Only headers and these texts are read; names are keys, never paths to write to.

    Raises:
        ValueError: the file is no uncompressed tar.
    """
    groups: dict[str, dict] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                group = groups.setdefault(f"{folder}/{stem}", {"said": {}, "media": []})
                suffix = os.path.splitext(base)[1].lower()
                if suffix in media_suffixes:
                    group["media"].append(member_uri(str(path.absolute()), member.offset_data, member.size, suffix))
                elif extension in ("txt", "json") and member.size <= MOST_TEXT:
                    group["said"] |= _said(tar.extractfile(member).read(), extension, columns)
    except (tarfile.TarError, OSError) as error:
        if not groups:
            raise ValueError(f"--input: {path} is not readable as an uncompressed tar: {error}") from None
        # A tar cut short: what came before the cut is whole.
    for group in groups.values():
        for uri in group["media"]:
            yield {**group["said"], "uri": uri}


def _said(data: bytes, extension: str, columns: tuple[str, ...]) -> dict:
    text = data.decode("utf-8", "replace")
    if extension == "txt":
        return {"caption": text}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if k in columns and k != "uri"} if isinstance(found, dict) else {}
