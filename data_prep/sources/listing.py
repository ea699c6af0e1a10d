"""Files found by listing: folders, patterns, and the texts beside a clip. Links to folders are not followed."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.media.regular import is_regular
from data_prep.sources.rows import COLUMNS

MAX_SIDECAR = 1 << 20
"""Bytes; larger .txt and .json files are ignored."""


def walk(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder that is not hidden."""
    waiting = [os.fspath(folder)]
    while waiting:
        try:
            entries = sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name)
        except OSError:  # it may not be read, or was removed
            continue
        for entry in entries:
            try:
                is_folder, is_link = entry.is_dir(), entry.is_symlink()
            except OSError:
                is_folder, is_link = False, True
            if is_folder and not is_link:
                waiting.append(entry.path)
            elif not is_folder and not entry.name.startswith("."):
                yield Path(entry.path)


def is_pattern(where: str) -> bool:
    """Whether a text is a pattern of names: it has * ? or [, and there is no file or folder of just this name."""
    return any(c in where for c in "*?[") and not os.path.lexists(where)


def fixed_folder(pattern: str) -> Path:
    """The folder before the first part of a pattern that is not a plain name."""
    path = Path(pattern)
    return Path(*path.parts[: _first_pattern(path)])


def expand(pattern: str) -> list[Path]:
    """The paths that a pattern matches, sorted; ** stands for any number of folders, without links and hidden ones.

    Raises:
        ValueError: it is no pattern.
    """
    path = Path(pattern)
    first = _first_pattern(path)
    if "**" not in path.parts:
        return sorted(map(Path, glob.glob(pattern)))
    folder = Path(*path.parts[:first])
    try:
        wanted = re.compile(_regex(path.parts[first:]), re.DOTALL)
    except re.error as error:
        raise ValueError(f"--input: {pattern} is no pattern: {error}") from None
    return sorted(p for p in walk(folder) if wanted.fullmatch(p.relative_to(folder).as_posix()))


def sidecars(path: Path) -> list[Path]:
    """The files beside a clip that hold its columns; later ones win."""
    return [side for suffix in (".json", ".txt") if os.path.lexists(side := path.with_suffix(suffix))]


def read_sidecar(path: Path) -> dict[str, object]:
    """Columns from a file beside a clip: the caption from clip.txt, any of the manifest's from clip.json."""
    if not is_regular(path):
        return {}
    try:
        with open(path, "rb") as f:
            data = f.read(MAX_SIDECAR)
        text = data.decode("utf-8", "replace") if len(data) < MAX_SIDECAR else ""
        if path.suffix == ".txt":
            return {"caption": text} if text else {}
        parsed = json.loads(text) if text else {}
    except (OSError, ValueError, RecursionError):
        return {}
    found = parsed.items() if isinstance(parsed, dict) else ()
    return {name: value for name, value in found if name in COLUMNS and name != "uri" and isinstance(value, str)}


def _first_pattern(path: Path) -> int:
    return next((i for i, part in enumerate(path.parts) if any(c in part for c in "*?[")), len(path.parts))


def _regex(parts: tuple[str, ...]) -> str:
    out = ""
    for part in parts[:-1]:
        out += r"(?:(?!\.)[^/]+/)*" if part == "**" else f"{_part_regex(part)}/"
    last = parts[-1]
    return out + (r"(?:(?!\.)[^/]+/)*(?!\.)[^/]+" if last == "**" else _part_regex(last))


def _part_regex(part: str) -> str:
    def translated(found: re.Match[str]) -> str:
        token = found[0]
        if token[0] == "*":
            return "[^/]*"
        if token == "?":
            return "[^/]"
        if len(token) > 1:
            inside = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
            return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside.replace('^', chr(92) + '^')}]"
        return re.escape(token)

    hidden = "" if part.startswith(".") else r"(?!\.)"
    return hidden + re.sub(r"\*+|\[!?\]?[^\]]*\]|.", translated, part, flags=re.DOTALL)
