"""Being asked to stop: a signal or a file, noticed by one rank, obeyed by all at the same step boundary."""

from __future__ import annotations

import contextlib
import enum
import signal
import threading
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
