"""Hang detection: a hang becomes an error that names the rank that the others wait for.

On each rank a thread watches how long the training thread has been in one phase of one step. Half-way to the limit it
writes its position to stalled/rank<r>.json in the run's folder; at the limit it reads what the others wrote. The rank
that is behind, or silent, is the one to look at. Nothing is sent or written while training progresses.

Collectives on the CPU fail by themselves after the process group's timeout, and `explain` words that error. Where
nothing fails (a GPU waiting for a peer, a read from a dead file server) the thread ends the process.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

from lingen.io.manifest import write_json
from lingen.train.observers.observer import Observer

log = logging.getLogger(__name__)

PHASES = ("start", "data", "step", "publish", "validate", "report", "sample", "checkpoint")
"""In the order of a step: of two ranks in the same step, the one in the earlier phase is behind."""

_WAITING = ("torch/distributed/", "lingen/train/observers/lockstep.py", "torch/autograd/")


class Stalled(RuntimeError):
    """Training made no progress for longer than fit.hang_timeout; the message names the rank that is behind."""


class Watchdog(Observer):
    """Watches the thread that creates it, inside a with block.

    Args:
        output: the run's folder, shared by all ranks.
        timeout_s: the longest time without progress, in seconds.
    """

    def __init__(self, output: Path, timeout_s: float):
        self._folder, self._timeout = output / "stalled", timeout_s
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._watched = threading.get_ident()
        self._now = (0, "start", time.monotonic())
        self._reported: tuple[int, str, float] | None = None  # the position in this rank's file
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._forget()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        from_torch = type(error) is RuntimeError or isinstance(error, dist.DistError)
        if from_torch and self._age() >= 0.8 * self._timeout:
            self._report()
            raise Stalled(self.explain()) from error
        if error is None:
            self._forget()

    def enter(self, step: int, phase: str) -> None:
        """Note the training thread's position, which restarts the clock; `phase` is one of PHASES."""
        assert phase in PHASES, phase
        self._now = (step, phase, time.monotonic())
        if self._reported:  # it was only slow
            self._forget()

    def explain(self) -> str:
        """Which ranks are behind, from the positions that the ranks wrote."""
        deadline = time.monotonic() + max(1.0, 0.1 * self._timeout)
        while len(ranks := self._reports()) < self._world and time.monotonic() < deadline:
            time.sleep(0.1)
        silent = [r for r in range(self._world) if r not in ranks]
        behind = [r for r in ranks if _progress(ranks[r]) == min(map(_progress, ranks.values()))]
        if len(behind) == len(ranks) and not silent:  # all in one phase: which one is not waiting for the others?
            behind = [r for r in ranks if not any(w in ranks[r]["where"] for w in _WAITING)] or behind
        named = [f"rank {r}, which is silent (dead or frozen)" for r in silent]
        if len(behind) < len(ranks):
            named += [f"rank {r}, in phase '{ranks[r]['phase']}' at {ranks[r]['where']}" for r in behind]
        step, phase, _ = self._now
        return (
            f"rank {self._rank} made no progress for {self._age():.0f} s in phase '{phase}' of step {step}; "
            + (f"it waits for {'; '.join(named)}. " if named else "all ranks are at the same place. ")
            + f"Every rank's stack is in {self._folder}; fit.hang_timeout is {self._timeout:g} s"
        )

    def _watch(self) -> None:
        while not self._end.wait(min(self._timeout / 10, 5.0)):
            if self._age() < self._timeout / 2:
                continue
            self._report()
            if self._age() >= self._timeout:
                log.error("%s", self.explain())
                # A collective on the CPU raises by itself at about this time; prefer that error.
                if not self._end.wait(max(5.0, 0.2 * self._timeout)) and self._age() >= self._timeout:
                    os._exit(1)

    def _age(self) -> float:
        return time.monotonic() - self._now[2]

    def _report(self) -> None:
        now = self._now
        if self._reported == now:
            return
        step, phase, _ = now
        stack = traceback.extract_stack(sys._current_frames()[self._watched])
        where = f"{stack[-1].filename}:{stack[-1].lineno} ({stack[-1].name})"
        write_json(
            self._folder / f"rank{self._rank}.json",
            {"step": step, "phase": phase, "where": where, "pid": os.getpid(), "stack": traceback.format_list(stack)},
        )
        self._reported = now

    def _forget(self) -> None:
        (self._folder / f"rank{self._rank}.json").unlink(missing_ok=True)
        self._reported = None

    def _reports(self) -> dict[int, dict]:
        paths = {r: self._folder / f"rank{r}.json" for r in range(self._world)}
        return {r: json.loads(path.read_text()) for r, path in paths.items() if path.is_file()}


def _progress(report: dict) -> tuple[int, int]:
    return report["step"], PHASES.index(report["phase"])
