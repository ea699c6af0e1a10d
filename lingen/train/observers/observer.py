"""What watches training from outside: one interface, told of every step, on every rank, in the same order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import Tensor

from lingen.data.loader import LatentBatch
from lingen.train.observers.preemption import Notice


@dataclasses.dataclass
class Step:
    """One training step, filled in while it goes on.

    Attributes:
        batch: this rank's share of the global batch.
        last: whether the stage ends with this step.
        flags: small numbers that an observer of this rank has to say before the step; after it, the largest that any
            rank said (lingen/train/observers/lockstep.py).
        waited_s, seconds: time spent waiting for the batch; time of the whole step without its observers.
        lr, grad_norm: learning rate; norm of the gradient before clipping.
        loss_B, t_B: loss and time of each sample of this rank.
        skipped: why the weights were not updated; None when they were.
        metrics: what observers have measured after this step.
        notice: whether to save or to stop after this step; the same on every rank.
    """

    batch: LatentBatch
    last: bool
    flags: dict[str, int] = dataclasses.field(default_factory=dict)
    waited_s: float = 0.0
    seconds: float = 0.0
    lr: float = 0.0
    grad_norm: float = 0.0
    loss_B: Tensor | None = None
    t_B: Tensor | None = None
    skipped: str | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    notice: Notice = Notice.NONE

    @property
    def number(self) -> int:
        """Counted from 0, as in the batch plan."""
        return self.batch.step

    @property
    def done(self) -> int:
        """Steps done after this one, as in metrics and checkpoints."""
        return self.batch.step + 1

    def due(self, every: int) -> bool:
        """Whether something that comes every so many steps (0: never) and at the stage's end comes after this one."""
        return self.last or (every > 0 and self.done % every == 0)


class Observer:
    """Watches training; does nothing by itself. All ranks call every method at the same steps.

    `phase` is what the hang detection and the stopwatch call its part of a step; "" has none.
    """

    phase = ""

    def start(self, step: int) -> None:
        """Training starts, after so many steps."""

    def before_step(self, step: Step) -> None:
        """The batch is there."""

    def reason_to_skip(self, step: Step) -> str | None:
        """What is wrong with the gradient, to keep it from the weights; None when nothing is."""

    def after_step(self, step: Step) -> None:
        """The weights are updated, or the step was skipped."""

    def enter(self, step: int, phase: str) -> None:
        """The training thread has come to this phase of a step."""

    def lap(self, part: str) -> None:
        """A part of a step is over: data, prepare, forward, backward, optimizer, or an observer's phase."""


class Observers(Observer):
    """Several as one. They are nested: the first is the last to hear before a step, and the first after it."""

    def __init__(self, observers: Iterable[Observer]):
        self._all = tuple(observers)

    def start(self, step: int) -> None:
        self.enter(step, "start")
        for observer in self._all:
            observer.start(step)
        self.enter(step, "data")

    def before_step(self, step: Step) -> None:
        self.enter(step.number, "step")
        for observer in reversed(self._all):
            observer.before_step(step)
        self.lap("data")

    def reason_to_skip(self, step: Step) -> str | None:
        reasons = [observer.reason_to_skip(step) for observer in self._all]
        return next((reason for reason in reasons if reason is not None), None)

    def after_step(self, step: Step) -> None:
        for observer in self._all:
            if observer.phase:
                self.enter(step.number, observer.phase)
            observer.after_step(step)
            if observer.phase:
                self.lap(observer.phase)
        self.enter(step.done, "data")

    def enter(self, step: int, phase: str) -> None:
        for observer in self._all:
            observer.enter(step, phase)

    def lap(self, part: str) -> None:
        for observer in self._all:
            observer.lap(part)
