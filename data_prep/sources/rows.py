"""Rows of a source: their columns, text that is safe to keep, and rows that cannot be used."""

from __future__ import annotations

import dataclasses
import re

import pyarrow as pa

from lingen.io.redact import redact

COLUMNS = ("uri", "media_type", "caption", "license", "source", "attribution")
SCHEMA = pa.schema([("row", pa.int64()), *((name, pa.string()) for name in COLUMNS), ("bad", pa.string())])
"""row: position in the source; bad: why the row cannot be used at all, "" when it can."""
MAX_CAPTION, MAX_TEXT = 4000, 1000
"""Characters of a caption, and of any other column."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_NOT_IN_NAMES = re.compile(rf"{_CONTROL.pattern}|[\t\n\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Unusable:
    """A row that cannot be used. A class of its own: no column of a user's can be mistaken for it."""

    why: str
    """A reason of the ledger, a colon, and a sentence."""
    uri: str = ""
    """What the row is about, as far as it is known."""


Row = dict[str, object] | Unusable
"""Column -> the user's value, of any type; or why there is none."""


def clean_text(text: object, limit: int = MAX_CAPTION) -> str:
    """One line of printable text, at most `limit` long: control and direction characters out, spaces folded, no
    passwords in URIs."""
    if text is None or (isinstance(text, float) and text != text):
        return ""
    # Cut to twice the limit first: folding a gigabyte of spaces takes time too.
    whole = cut(text, limit).encode("utf-8", "replace").decode("utf-8")
    return " ".join(_CONTROL.sub(" ", redact(whole)).split())[:limit].strip()


def cut(value: object, limit: int = MAX_CAPTION) -> str:
    """As much of a value as `clean_text` looks at."""
    try:
        return str(value)[: 2 * limit]
    except (RecursionError, ValueError):  # lists in lists in lists; a number of too many digits
        return ""


def strange_name(name: str) -> bool:
    """Whether a name holds characters that no terminal should see, or is not Unicode."""
    return bool(_NOT_IN_NAMES.search(name))
