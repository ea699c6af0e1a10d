"""Requests to stop: a signal or a file, noticed by one rank, obeyed by all at the same step boundary."""

from __future__ import annotations

import contextlib
import enum
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

STOP_FILE = "stop"


class Notice(enum.IntEnum):
    """A request to a rank; the strongest of all ranks' counts."""

    NONE = 0
    SAVE = 1
    """save a checkpoint now and continue: a machine may soon be taken away"""
    STOP = 2
    """save a checkpoint and end, to be resumed by the same command"""


def stop_file(output: Path) -> Path:
    """While this file exists, training in `output` stops at its next step; a person may create it too."""
    return output / STOP_FILE


def clear_stop_file(output: Path) -> Path:
    """Remove the stop file that ended the run before this one. Returns where the next one will be.

    Raises:
        ValueError: something else has its name, so that nobody could ask training to stop.
    """
    path = stop_file(output)
    if path.is_dir():
        raise ValueError(f"--output: {path} is a folder, but a file of this name stops training; rename the folder")
    path.unlink(missing_ok=True)
    return path


class StopFile:
    """Looks for the stop file, at most once in `every_s` seconds: it may be on a slow file server."""

    def __init__(self, output: Path, every_s: float = 1.0):
        self._path, self._every, self._next = stop_file(output), every_s, 0.0

    def __call__(self) -> Notice:
        now = time.monotonic()
        if now < self._next:
            return Notice.NONE
        self._next = now + self._every
        return Notice.STOP if self._path.is_file() else Notice.NONE


@contextlib.contextmanager
def on_sigterm(act: Callable[[], object]) -> Iterator[None]:
    """Call act() on the first SIGTERM inside the block; a second one ends the process as usual.

    Only the main thread can receive signals; elsewhere the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        act()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
