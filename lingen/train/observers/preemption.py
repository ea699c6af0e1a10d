"""Being asked to stop: a signal or a file, noticed by one rank, obeyed by all at the same step boundary."""

from __future__ import annotations

import contextlib
import enum
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

STOP_FILE = "stop"


class Notice(enum.IntEnum):
    """What a rank was told; the strongest of all ranks' counts."""

    NONE = 0
    SAVE = 1
    """save a checkpoint now and go on: a machine may be taken away soon"""
    STOP = 2
    """save a checkpoint and end, to be started again by the same command"""


def stop_file(output: Path) -> Path:
    """While this file is there, training in `output` stops at its next step; a person may make it too."""
    return output / STOP_FILE


class StopFile:
    """Asks for the stop file, once a second at most: it may lie on a far file server."""

    def __init__(self, output: Path, every_s: float = 1.0):
        self._path, self._every, self._next = stop_file(output), every_s, 0.0

    def __call__(self) -> Notice:
        now = time.monotonic()
        if now < self._next:
            return Notice.NONE
        self._next = now + self._every
        return Notice.STOP if self._path.exists() else Notice.NONE


@contextlib.contextmanager
def on_sigterm(act) -> Iterator[None]:
    """Call act() for the first SIGTERM inside the block; a second one ends the process as usual.

    Only the main thread can be told by a signal; elsewhere the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number, frame) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        act()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
