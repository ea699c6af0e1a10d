"""Metrics when they are due: those of the steps since the last report, and what other observers have measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lingen.train.observers.observer import Observer, Step

Log = Callable[[int, dict[str, float]], None]
"""called as log(step, metrics)"""


class Metrics(Protocol):
    """What adds up between two reports."""

    def add(self, step: Step) -> None:
        """Count a step of this rank."""

    def reduce(self) -> dict[str, float]:
        """Metrics of the steps since the last call; called by every rank."""
        ...


class Reports(Observer):
    """Calls `log` every `every` steps, at the end, and when another observer has measured something."""

    phase = "report"

    def __init__(self, every: int, metrics: Metrics, log: Log):
        self._every, self._metrics, self._log = every, metrics, log

    def after_step(self, step: Step) -> None:
        self._metrics.add(step)
        metrics = (self._metrics.reduce() if step.due(self._every) else {}) | step.metrics
        if metrics:
            self._log(step.done, metrics)
