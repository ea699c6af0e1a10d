"""Paths that stay in their folder, whatever names and links a folder from others holds."""

from __future__ import annotations

from pathlib import Path


def inside(folder: str | Path, name: str | Path) -> Path:
    """The real path of a file in a folder, with all links followed; the file need not exist.

    Raises:
        ValueError: it is outside of the folder.
    """
    root, path = Path(folder).resolve(), Path(folder, name).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{folder}: {name} leads out of this folder, to {path}; copy what it means into the folder")
    return path


def require_apart(output: str | Path, source: str | Path, flag: str) -> None:
    """Check that a job does not write into, or replace, the folder that it reads.

    Args:
        output: what --output names.
        source: the folder that is read.
        flag: the flag that names it.

    Raises:
        ValueError: one is the other, or contains it.
    """
    written, read = Path(output).resolve(), Path(source).resolve()
    if written.is_relative_to(read) or read.is_relative_to(written):
        raise ValueError(f"--output: {output} and {flag} {source} overlap; choose a folder beside it")
