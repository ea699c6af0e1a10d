"""A run's files: run.json with its state, and JSON lines of what is to be sent."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from pathlib import Path
from typing import Any

from lingen.io.manifest import read_json, whole_lines, write_json

STATE = "run.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunState:
    """The content of run.json."""

    experiment: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    datasets: list[dict[str, str]] = dataclasses.field(default_factory=list)
    run_id: str | None = None
    """given by MLflow; None until it has answered once"""
    params_sent: bool = False
    """whether MLflow has params and datasets"""
    lines_sent: int = 0
    """lines of metrics.jsonl that MLflow has"""
    artifacts_sent: int = 0
    """lines of artifacts.jsonl that MLflow has"""
    ended: str | None = None
    """the status that the job closed the run with"""
    seen: str | None = None
    """the closing status that MLflow has, after everything else"""


def read_state(folder: Path) -> RunState | None:
    """The state of the run in a folder; None when there is none."""
    path = folder / STATE
    return RunState(**read_json(path)) if path.is_file() else None


class RunFiles:
    """The files of one run; the job's thread appends, the sender's thread reads and notes what it has sent.

    Args:
        folder: the run's folder.
        state: the state of a new run. An existing one is reopened as it is: MLflow's parameters can be set once only.

    Attributes:
        resumed: whether MLflow was told that the run had ended.
    """

    def __init__(self, folder: Path, state: RunState):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        before = read_state(folder)
        self.resumed = before is not None and before.seen is not None
        self.state = dataclasses.replace(before or state, ended=None, seen=None)
        self.metrics = SentLines(folder / "metrics.jsonl", self.state.lines_sent)
        self.artifacts = SentLines(folder / "artifacts.jsonl", self.state.artifacts_sent)
        self._lock = threading.Lock()
        self.update()

    def update(self, **changes: Any) -> None:
        """Change fields of the state."""
        with self._lock:
            self.state = dataclasses.replace(self.state, **changes)
            write_json(self.folder / STATE, self.state)


class SentLines:
    """A file of JSON lines: one thread appends, another takes from the first line that was not sent.

    Args:
        sent: number of lines of an existing file that were sent.

    Attributes:
        last: the newest line; None in an empty file.
    """

    def __init__(self, path: Path, sent: int):
        self._path = path
        path.touch()
        lines = whole_lines(path)
        self.last: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
        self._sent, self._offset = sent, sum(map(len, lines[:sent]))
        self._sizes: list[int] = []

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line."""
        self.last = entry
        with open(self._path, "ab") as f:
            f.write(json.dumps(entry).encode() + b"\n")

    def unsent(self, limit: int) -> list[dict[str, Any]]:
        """The next lines that were not sent, at most `limit`."""
        with open(self._path, "rb") as f:
            f.seek(self._offset)
            lines = [line for line in itertools.islice(f, limit) if line.endswith(b"\n")]
        self._sizes = [len(line) for line in lines]
        return [json.loads(line) for line in lines]

    def mark_sent(self, count: int) -> int:
        """Note that the first `count` lines of `unsent` were sent. Returns the number of lines sent in all."""
        self._sent += count
        self._offset += sum(self._sizes[:count])
        return self._sent
