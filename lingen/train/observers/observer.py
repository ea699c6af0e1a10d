"""The interface of everything that watches training: called at every step, on every rank, in the same order.

Legend: B samples of this rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import Tensor

from lingen.data.loader import LatentBatch
from lingen.train.observers.preemption import Notice


@dataclasses.dataclass
class Step:
    """One training step, filled in as it proceeds."""

    number: int
    """counted from 0, as in the batch plan"""
    last: bool
    """whether training ends with this step"""
    flags: dict[str, int] = dataclasses.field(default_factory=dict)
    """small numbers that observers of this rank set before the step; after it, the largest of any rank (Lockstep)"""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    """what observers have measured after this step"""
    notice: Notice = Notice.NONE
    """whether to save or to stop after this step; the same on every rank"""
    lr: float = 0.0
    """learning rate"""
    grad_norm: float = 0.0
    """norm of the gradient before clipping"""
    skip_reason: str | None = None
    """why the weights were not updated; None when they were"""
    waited_s: float = 0.0
    """seconds spent waiting for the batch"""
    seconds: float = 0.0
    """seconds of the whole step, without its observers"""

    batch: LatentBatch = dataclasses.field(init=False, repr=False)
    """the denoiser's: this rank's share of the global batch"""
    loss_B: Tensor = dataclasses.field(init=False, repr=False)
    """the denoiser's: loss of each sample"""
    t_B: Tensor = dataclasses.field(init=False, repr=False)
    """the denoiser's: time of each sample"""
    losses: dict[str, Tensor] = dataclasses.field(init=False, repr=False)
    """the autoencoder's: the parts of its loss"""

    @property
    def done(self) -> int:
        """Steps done after this one, as in metrics and checkpoints."""
        return self.number + 1

    def due(self, every: int) -> bool:
        """Whether this is the last step, or one of those that come every so many steps (0: never)."""
        return self.last or (every > 0 and self.done % every == 0)


class Observer:
    """Watches training; this one does nothing. Every rank calls every method at the same steps.

    Attributes:
        phase: name of its part of a step, for hang detection and timing; "" for none.
    """

    phase = ""

    def start(self, step: int) -> None:
        """Called when training starts, after `step` steps of earlier runs."""

    def before_step(self, step: Step) -> None:
        """Called when the batch has arrived."""

    def reason_to_skip(self, step: Step) -> str | None:
        """What is wrong with the gradient, to withhold the update; None accepts it."""
        return None

    def after_step(self, step: Step) -> None:
        """Called when the weights are updated, or the update was skipped."""

    def enter(self, step: int, phase: str) -> None:
        """Called when the training thread enters a phase of a step."""

    def lap(self, part: str) -> None:
        """Called at the end of a part of a step: data, prepare, forward, backward, optimizer, an observer's phase."""


class Observers(Observer):
    """Several observers as one, nested: the first is the last to be called before a step, and the first after it."""

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
