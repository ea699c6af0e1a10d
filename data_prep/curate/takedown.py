"""Takedown: a list of what must go, honoured by curation and by shards.

A CSV with any of the columns of FIELDS, and `detail` (the reason, copied to the ledger). A row names everything that
agrees with all of its filled cells: a file (uri, as in the manifest or its end; or content: a content hash, clip_id or
sample key), or everything of a source, a licence or an attribution. It covers the content: the same bytes under other
names go too.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from data_prep.sources.manifest import rows_of
from lingen.io.manifest import file_digest

FIELDS = ("content", "uri", "source", "license", "attribution")


@dataclasses.dataclass(frozen=True)
class Takedown:
    """A takedown list that has been read."""

    digest: str
    """Of the file."""
    _entries: dict[tuple[str, str], list[dict[str, str]]]

    @classmethod
    def read(cls, path: str | Path) -> Takedown:
        """Read a list.

        Raises:
            ValueError: the file does not exist, has no known column, or names nothing.
        """
        if not Path(path).is_file():
            raise ValueError(f"--takedown: {path} is not a file")
        entries: dict[tuple[str, str], list[dict[str, str]]] = {}
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as f:
            for row in csv.DictReader(line.replace("\0", "") for line in f):
                entry = {name: (row.get(name) or "").strip() for name in (*FIELDS, "detail")}
                named = next((name for name in FIELDS if entry[name]), None)
                if named:
                    entries.setdefault((named, _short(named, entry[named])), []).append(entry)
        if not entries:
            raise ValueError(f"--takedown: {path} names nothing; it needs a column {', '.join(FIELDS)} with a value")
        return cls(file_digest(path), entries)

    def uses(self, *fields: str) -> bool:
        """Whether any row fills one of these fields."""
        return any(entry[name] for found in self._entries.values() for entry in found for name in fields)

    def detail(self, about: Mapping[str, str]) -> str | None:
        """Why something must go, or None.

        Args:
            about: what is known of it, by field.
        """
        for name in FIELDS:
            for entry in self._entries.get((name, _short(name, about.get(name) or "")), ()):
                if all(_agrees(n, entry[n], about.get(n) or "") for n in FIELDS if entry[n]):
                    return entry["detail"] or f"{name} {entry[name]}"
        return None

    def uris(self, source: pa.Table) -> pa.Array:
        """URIs of the source's rows that the list names."""
        return pa.array({row["uri"] for row in rows_of(source) if self.detail(row)}, pa.string())


def content_of(name: str) -> str:
    """The content hash in a clip_id or a sample key."""
    return name.partition("-")[0]


def _short(field: str, value: str) -> str:
    """A part of the value that is equal for all values that agree."""
    return {"content": content_of, "uri": lambda uri: uri.rpartition("/")[2]}.get(field, str)(value)


def _agrees(field: str, asked: str, value: str) -> bool:
    if field == "uri":
        return value == asked or value.endswith("/" + asked.removeprefix("./"))
    return _short(field, asked) == _short(field, value)
