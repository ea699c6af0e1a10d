"""Progress of long work: a live line on a terminal, one line every 30 s elsewhere, with rate and time left."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TextIO

RELAYED = "LINGEN_PROGRESS_RELAYED"
"""Environment variable: whoever started this process reads the live lines, and shows them beside other processes'."""


class Progress:
    """Counter of units of work that prints how far it is.

    Args:
        name: of the work, as printed.
        total: units in all; None: unknown.
        unit: as printed.
        done: units that an earlier run did; they count towards the total, not the rate.
        stream: where to print; None: stderr.
    """

    def __init__(self, name: str, total: int | None, unit: str = "clips", done: int = 0, stream: TextIO | None = None):
        self.name, self.total, self.unit = name, total, unit
        self.done = self._resumed = done
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() or RELAYED in os.environ
        self._period = 0.5 if self._live else 30.0
        self._start = self._last = time.monotonic()

    def update(self, n: int = 1, note: str = "") -> None:
        """Count `n` units, and print a line when one is due."""
        self.done += n
        now = time.monotonic()
        if now - self._last >= self._period:
            self._last = now
            self._print(self.line(note), end="\r" if self._live else "\n")

    def resumed(self) -> None:
        """Attribute all units counted so far to an earlier run."""
        self._resumed = self.done

    def close(self, note: str = "") -> None:
        """Print the closing line."""
        self._print(self.line(note), end="\n")

    def line(self, note: str = "") -> str:
        """The line that would be printed now."""
        elapsed = time.monotonic() - self._start
        rate = (self.done - self._resumed) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.name}: {self.done}" + (f"/{self.total}" if self.total is not None else "") + f" {self.unit}"]
        parts.append(f"{rate:.2f} {self.unit}/s" if rate < 100 else f"{rate:.0f} {self.unit}/s")
        parts.append(f"{clock(elapsed)} elapsed")
        if self.total and rate > 0 and self.done < self.total:
            parts.append(f"{clock((self.total - self.done) / rate)} to go")
        return ", ".join(parts + ([note] if note else []))

    def _print(self, text: str, end: str) -> None:
        with contextlib.suppress(OSError):  # a closed terminal, or a full disk under a log, must not end the work
            self._stream.write(text + ("\033[K" if self._live else "") + end)
            self._stream.flush()


def length(hours: float) -> str:
    """Hours of video, or of work, in a unit that fits: 34.6 s, 5.3 min or 12.4 h."""
    s = 3600 * hours
    return f"{s:.1f} s" if s < 90 else f"{s / 60:.1f} min" if s < 5400 else f"{hours:,.1f} h"


def clock(seconds: float) -> str:
    """Seconds as 12s, 3m05s or 2h07m."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"
