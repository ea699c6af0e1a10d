"""The error that refuses a media file, and what any other exception becomes: one file's row, never the job's end."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Mapping
from pathlib import Path

from lingen.io.redact import printable

INTERNAL = "internal_error"
"""The reason of a failure that is our bug, not the file's. Another version of the code may read the file."""
IN_A_ROW = 20
"""So many different files in a row with an internal error stop a job."""
ROOT = Path(__file__).parents[2]


class MediaError(Exception):
    """A file that cannot be used. `reason` is a short snake_case code for the ledger, `detail` a sentence."""

    def __init__(self, reason: str, detail: str = ""):
        self.reason, self.detail = reason, printable(" ".join(detail.split()))[:300]
        super().__init__(f"{reason}: {self.detail}" if detail else reason)

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        return MediaError, (self.reason, self.detail)


class OurBug(RuntimeError):
    """Many different files in a row ended in internal errors: the job stops, since the files are not to blame."""


class BugAlarm:
    """Counts different files in a row that end in internal errors."""

    def __init__(self) -> None:
        self._files: set[str] = set()

    def note(self, file: str, row: Mapping[str, str] | None = None) -> None:
        """Note how a file ended: well, or with a row that has a reason and a detail.

        Raises:
            OurBug: that makes IN_A_ROW different files in a row.
        """
        if row is None or row["reason"] != INTERNAL:
            self._files.clear()
            return
        self._files.add(file)
        if len(self._files) >= IN_A_ROW:
            raise OurBug(
                f"{IN_A_ROW} different files in a row raised what nobody expected: this is a bug of ours, please "
                f"report it. The same command continues when it is fixed. The last one: {row['detail']}"
            )


def internal_error(error: Exception) -> MediaError:
    """What an exception that nobody foresaw becomes: its type, its message, and where in our code it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{path}:{frame.lineno}" for frame in frames if (path := _in_project(frame.filename))]
    at = ours or [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames] or ["no traceback"]
    message = printable(" ".join(str(error).split()))[:150]
    return MediaError(INTERNAL, f"{type(error).__name__}: {message} ({at[-1]})")


def replay(uri: str) -> str:
    """The command that examines a file again, in a process of its own."""
    return f"python -m data_prep.measure.examine {shell_word(uri)}"


def shell_word(text: str) -> str:
    """Text of a stranger as one word that is safe to print and to paste into a shell."""
    if printable(text) == text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(escaped)}'"


def _in_project(file: str) -> Path | None:
    """The path of one of our files in the project; None for others' files."""
    path = Path(file)
    ours = path.is_absolute() and path.is_relative_to(ROOT) and "site-packages" not in path.parts
    return path.relative_to(ROOT) if ours else None
