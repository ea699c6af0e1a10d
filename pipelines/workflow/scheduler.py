"""Steps that do not depend on each other, side by side: each job a process, started when what it reads is there."""

from __future__ import annotations

import dataclasses
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lingen.io.exit_codes import PREEMPTED
from lingen.io.progress import RELAYED
from lingen.train.observers.preemption import on_sigterm
from pipelines.workflow.relay import Relay
from pipelines.workflow.steps import WorkflowStep

HEARTBEAT = 2.0
"""seconds between calls of `beat`"""
LAST_WORDS = 5.0
"""seconds to wait for the rest of a job's output after its end: a process that it left behind may keep the pipe open"""


class StepFailed(Exception):
    """A job ended with an exit code other than 0; a negative one is the signal that killed it, like subprocess's.

    Attributes:
        code: the exit code, 128 + signal for a killed job, like a shell's.
    """

    def __init__(self, step: str, code: int):
        super().__init__(f"{step} {'was killed by signal' if code < 0 else 'ended with exit code'} {abs(code)}")
        self.code = code if code >= 0 else 128 - code


@dataclasses.dataclass(frozen=True)
class JobCommand:
    """A job to start."""

    arguments: Sequence[str | Path]
    """after Python's own name"""
    environment: Mapping[str, str]
    """added to ours"""


class Scheduler:
    """Runs steps, at most so many at a time; of several that could start, the first in the list.

    A failed job lets the others that run come to their end, and nothing new starts. SIGTERM is passed on to all.

    Args:
        limit: jobs at a time.
        relay: prints what they print.
        begin: the command of a step, called when all that it reads is there; None: it is done already.
        finish: called with a step whose job has ended with 0, and how many seconds it took.
        beat: called now and then while jobs run.
    """

    def __init__(
        self,
        limit: int,
        relay: Relay,
        begin: Callable[[WorkflowStep], JobCommand | None],
        finish: Callable[[WorkflowStep, float], None],
        beat: Callable[[], None] = lambda: None,
    ):
        self._limit, self._relay, self._begin, self._finish, self._beat = limit, relay, begin, finish, beat
        self._waiting: list[WorkflowStep] = []
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._done: set[str] = set()
        self._ended: queue.Queue[tuple[WorkflowStep, int, float]] = queue.Queue()
        self._terminated = False
        self._failure: StepFailed | None = None

    def run(self, steps: Sequence[WorkflowStep]) -> None:
        """Run all steps.

        Raises:
            StepFailed: a job failed, the first of several; or SIGTERM came (exit code 75).
        """
        self._waiting = list(steps)
        try:
            with on_sigterm(self._terminate):
                while self._start() or self._running:
                    self._wait()
        finally:
            for process in list(self._running.values()):
                process.wait()  # after Ctrl-C, which it got too, it is saving its state
        if self._terminated and self._failure is None and self._waiting:
            self._failure = StepFailed(self._waiting[0].name, PREEMPTED)
        if self._failure is not None:
            raise self._failure

    def _start(self) -> bool:
        """Start what can start. Returns whether anything was skipped or started."""
        before = len(self._waiting)
        while not self._terminated and self._failure is None and len(self._running) < self._limit:
            step = next((s for s in self._waiting if self._done.issuperset((*s.after, *s.waits_for))), None)
            if step is None:
                break
            self._waiting.remove(step)
            command = self._begin(step)
            if command is None:
                self._done.add(step.name)
            else:
                self._launch(step, command)
        return len(self._waiting) < before

    def _launch(self, step: WorkflowStep, command: JobCommand) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", RELAYED: "1", **command.environment}
        self._relay.begin(step.name)
        process = subprocess.Popen(
            [sys.executable, *command.arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._running[step.name] = process
        if self._terminated:  # just before it was among those that run
            process.terminate()
        threading.Thread(target=self._attend, args=(step, process), daemon=True).start()
        self._beat()

    def _attend(self, step: WorkflowStep, process: subprocess.Popen[bytes]) -> None:
        """Relay a job's output until it ends; in a thread of its own."""
        started = time.monotonic()
        pipes = (("stdout", process.stdout), ("stderr", process.stderr))
        readers = [
            threading.Thread(target=self._relay.follow, args=(step.name, pipe, to), daemon=True) for to, pipe in pipes
        ]
        for reader in readers:
            reader.start()
        code = process.wait()
        took = time.monotonic() - started
        for reader in readers:
            reader.join(LAST_WORDS)
        self._relay.end(step.name)
        self._ended.put((step, code, took))

    def _wait(self) -> None:
        """Wait until a job has ended, or the next heartbeat."""
        if not self._running:
            return
        try:
            step, code, took = self._ended.get(timeout=HEARTBEAT)
        except queue.Empty:
            self._beat()
            return
        self._running.pop(step.name)
        if not code:
            self._done.add(step.name)
            self._finish(step, took)
            return
        if self._failure is None:
            self._failure = StepFailed(step.name, PREEMPTED if self._terminated else code)
            if self._running and not self._terminated:
                others = " and ".join(self._running)
                self._relay.say(f"\n{self._failure}; nothing new starts, but {others} goes on (Ctrl-C stops it, saved)")

    def _terminate(self) -> None:
        self._terminated = True
        for process in list(self._running.values()):
            process.terminate()
