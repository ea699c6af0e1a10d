"""Checkpoints when they are due: the one in flight is published as soon as it is written, then the next one started."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lingen.train.checkpoint import Checkpointer, step_of
from lingen.train.metrics import MetricsWindow
from lingen.train.observers.guard import Guard
from lingen.train.observers.observer import Observer, Step
from lingen.train.observers.preemption import Notice

log = logging.getLogger(__name__)


class PublishCheckpoints(Observer):
    """Calls `saved(step, path)` for a checkpoint once every rank has written it.

    Raises:
        CheckpointFailed: it could not be written; noticed at the next step, not only at the next save.
    """

    phase = "publish"

    def __init__(self, checkpointer: Checkpointer, saved: Callable[[int, Path], None]):
        self._checkpointer, self._saved = checkpointer, saved

    def before_step(self, step: Step) -> None:
        step.flags |= {"save_failed": self._checkpointer.failed, "save_busy": self._checkpointer.busy}

    def after_step(self, step: Step) -> None:
        if step.flags["save_failed"] or not step.flags["save_busy"]:
            self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint in flight, if there is one."""
        if path := self._checkpointer.wait():
            self._saved(step_of(path), path)


class SaveCheckpoints(Observer):
    """Starts a checkpoint every `every` steps, at the end, and when a notice asks for one.

    Args:
        meta: content of meta.json, beside the state of `guard` and `metrics`.
    """

    phase = "checkpoint"

    def __init__(
        self,
        every: int,
        checkpointer: Checkpointer,
        publish: PublishCheckpoints,
        guard: Guard,
        metrics: MetricsWindow,
        meta: dict[str, Any],
    ):
        self._every, self._checkpointer, self._publish = every, checkpointer, publish
        self._guard, self._metrics, self._meta = guard, metrics, meta

    def after_step(self, step: Step) -> None:
        # Suspect weights are no place to rewind to.
        regular = step.done % self._every == 0 and self._guard.is_stable
        if not (step.last or regular or step.notice):
            return
        began = time.perf_counter()
        self._publish.wait()
        state = {"guard": self._guard.state(), "window": self._metrics.state()}
        self._checkpointer.save(step.done, self._meta | state, regular)
        if step.last or step.notice == Notice.STOP:
            self._publish.wait()
        self._metrics.seconds["checkpoint"] += time.perf_counter() - began
        if step.notice == Notice.STOP and not step.last and dist.get_rank() == 0:
            log.info("asked to stop: saved after step %d; the same command continues from there", step.done)
