"""What running jobs print, on one terminal: each line whole, with the step's name before it while several run.

A job's progress line is a live one that it ends with a carriage return. Those of all running jobs share the last line
of a terminal; elsewhere each job's is printed every 30 s.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO

PERIOD = 30.0
"""seconds between the progress lines of a job where there is no terminal"""
_CLEAR = "\r\033[K"


class Relay:
    """Prints for several jobs; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: dict[str, str] = {}
        self._printed: dict[str, float] = {}
        self._live = sys.stderr.isatty()

    def begin(self, step: str) -> None:
        """A step's job is running."""
        with self._lock:
            self._progress[step], self._printed[step] = "", time.monotonic()

    def end(self, step: str) -> None:
        """A step's job has ended, and all it printed was read."""
        with self._lock:
            self._progress.pop(step, None)
            self._draw()

    def progress(self) -> Mapping[str, str]:
        """Running step -> its newest progress line; empty before the first."""
        with self._lock:
            return dict(self._progress)

    def say(self, text: str) -> None:
        """Print lines of the workflow itself."""
        with self._lock:
            self._print(text, sys.stdout)

    def follow(self, step: str, pipe: IO[bytes], to: str) -> None:
        """Relay what comes through a pipe, until it is closed.

        Args:
            step: name of the step.
            pipe: the job's stdout or stderr.
            to: stdout or stderr.
        """
        decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
        while data := os.read(pipe.fileno(), 1 << 16):
            *whole, rest = re.split("(\r\n|\n|\r)", rest + decoder.decode(data))
            for text, end in zip(whole[::2], whole[1::2]):
                self._line(step, text, to, live=end == "\r")
        if rest:
            self._line(step, rest, to, live=False)

    def _line(self, step: str, text: str, to: str, live: bool) -> None:
        text = text.replace("\033[K", "")
        with self._lock:
            if live:
                self._progress[step] = text
                due = time.monotonic() - self._printed.get(step, 0.0) >= PERIOD
                if self._live or not due:
                    self._draw()
                    return
                self._printed[step] = time.monotonic()
            prefix = f"{step} | " if len(self._progress) > 1 else ""
            self._print(prefix + text, getattr(sys, to))

    def _print(self, text: str, stream: IO[str]) -> None:
        """Print whole lines above the live one."""
        with contextlib.suppress(OSError):  # a closed terminal must not end the work
            if self._live:
                sys.stderr.write(_CLEAR)
                sys.stderr.flush()
            stream.write(text + "\n")
            stream.flush()
        self._draw()

    def _draw(self) -> None:
        """Draw the live line: the progress of all that run, as far as the terminal is wide."""
        if not self._live:
            return
        lines = [f"{step} | {text}" if len(self._progress) > 1 else text for step, text in self._progress.items()]
        width = max(20, shutil.get_terminal_size().columns - 1) // max(1, len(lines)) - 3
        shown = "   ".join(line[:width].ljust(width if len(lines) > 1 else 0) for line in lines)
        with contextlib.suppress(OSError):
            sys.stderr.write(_CLEAR + shown)
            sys.stderr.flush()
