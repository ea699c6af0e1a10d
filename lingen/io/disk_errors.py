"""Errors of the disk in one line: what the user can mend, with the exit code of the command that met it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from lingen.io.exit_codes import BAD_CONFIGURATION, FAILED

_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EBUSY}
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "the disk is full")


def explain(error: BaseException, output: str | Path | None = None) -> tuple[str, int] | None:
    """A line about a path that may not be written or read, or about a full disk; None for any other error.

    Args:
        error: as it reached the command; the errors that led to it, on other machines too, are looked at as well.
        output: what the user gave as --output.

    Returns:
        (line, exit code): 2 when the path is wrong, 1 when the disk was full, where what is written so far is whole.
    """
    for line in str(error).splitlines():  # pyarrow, torch, safetensors and Ray word it in the middle of their own
        if any(sign in line for sign in _FULL):
            where = f"{output}: " if output is not None and str(output) not in line else ""
            return f"{where}{line.strip()}; make room, and the same command continues", FAILED
    for cause in _causes(error):
        named = cause.filename is not None or "local file" in str(cause)  # the latter by pyarrow
        if cause.errno in _REFUSED and named:
            line = f"{cause.filename}: {cause.strerror}" if cause.filename is not None else str(cause)
            if output is None or not _touches(cause.filename, output):
                return line, BAD_CONFIGURATION
            return f"--output: {line}; choose another, or change its permissions", BAD_CONFIGURATION
    return None


def _causes(error: BaseException | None) -> Iterator[OSError]:
    seen: list[BaseException] = []
    while isinstance(error, BaseException) and error not in seen:
        seen.append(error)
        inner = getattr(error, "cause", None)  # what was raised in one of Ray's workers
        if isinstance(error, OSError) and not isinstance(inner, OSError):
            yield error
        error = inner if isinstance(inner, BaseException) else error.__cause__


def _touches(name: object, output: str | Path) -> bool:
    """Whether a path is the output, inside it, or a folder that holds it; without a path it may be."""
    if not isinstance(name, (str, bytes)):
        return True
    path, folder = Path(os.fsdecode(name)).absolute(), Path(output).absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)
