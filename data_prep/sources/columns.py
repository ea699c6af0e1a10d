"""Names of a manifest's columns: near names are suggested, and others are mapped to ours with --columns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from data_prep.media.errors import shell_word
from data_prep.sources.rows import COLUMNS, Row, Unusable
from lingen.io.redact import printable

NEAR = {
    "uri": "path filepath file filename videopath video imagepath image url videourl clip media location src",
    "media_type": "mediatype type mimetype mime",
    "caption": "text captions captiontext description prompt title sentence alttext transcript",
    "license": "licence licenses licences licensename rights",
    "source": "origin provenance dataset",
    "attribution": "author credit credits creator artist",
}
"""Our columns, and what others call them, likeliest first, as `_letters` writes them."""


def parse_columns(pairs: Sequence[str]) -> dict[str, str]:
    """Our column -> the user's, from texts such as caption=text.

    Raises:
        ValueError: a text is not of this form, or names none of our columns, or one of them twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not theirs or ours not in COLUMNS:
            raise ValueError(f"--columns: {pair!r} is not OURS=YOURS, where OURS is one of {', '.join(COLUMNS)}")
        if ours in found:
            raise ValueError(f"--columns: {ours} is mapped twice, to {found[ours]!r} and {theirs!r}")
        found[ours] = theirs
    return found


def check_columns(where: str, columns: Sequence[str], mapping: Mapping[str, str], required: Iterable[str]) -> None:
    """Refuse a manifest that lacks columns, and say what may be meant.

    Args:
        where: what the user calls the manifest.
        columns: its columns.
        mapping: our column -> the user's.
        required: our columns that it must have.

    Raises:
        ValueError: a required or a mapped column is missing.
    """
    names = printable(", ".join(sorted(columns))[:200]) or "none"
    for ours, theirs in mapping.items():
        if theirs not in columns:
            raise ValueError(
                f"--columns {ours}={shell_word(theirs)}: {where} has no column {theirs!r}; it has: {names}"
            )
    missing = [name for name in required if name not in columns and name not in mapping]
    if not missing:
        return
    near = near_names(columns, mapping)
    lacks = [f"no column {n!r}" + (f" (did you mean {near[n]!r}?)" if n in near else "") for n in missing]
    fixes = [f"--columns {mapping_words(near, missing)}"] if near.keys() & set(missing) else []
    if "license" in missing and "license" not in near:
        fixes.append("--license.assume CC-BY-4.0 (or what applies to all clips)")
    if "caption" in missing and "caption" not in near:
        fixes.append("--caption.missing keep for clips without captions")
    give = f"; give {' and '.join(fixes)}" if fixes else ""
    raise ValueError(f"--input: {where} has {', '.join(lacks)}; it has: {names}{give}")


def near_names(columns: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Our column -> the user's that is probably meant, for those that are neither there nor mapped."""
    free = {_letters(c): c for c in reversed(columns) if c not in COLUMNS and c not in mapping.values()}
    found: dict[str, str] = {}
    for ours, names in NEAR.items():
        if ours in columns or ours in mapping:
            continue
        known = [name for name in [_letters(ours), *names.split()] if name in free]
        known = known or difflib.get_close_matches(ours, free, n=1, cutoff=0.8)
        if known:
            found[ours] = free.pop(known[0])
    return found


def mapping_words(near: Mapping[str, str], names: Iterable[str]) -> str:
    """The arguments of --columns that map some of the suggestions."""
    return " ".join(f"{name}={shell_word(near[name])}" for name in names if name in near)


def renamed(rows: Iterable[Row], mapping: Mapping[str, str]) -> Iterator[Row]:
    """Rows with the user's columns under our names."""
    for row in rows:
        yield row if isinstance(row, Unusable) else {**row, **{o: row.get(theirs) for o, theirs in mapping.items()}}


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name[:100].lower())
