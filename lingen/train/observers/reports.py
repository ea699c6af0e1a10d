"""Metrics at their time: means over the steps since the last report, and what other observers have measured."""

from __future__ import annotations

from collections.abc import Callable

from lingen.train.metrics import MetricsWindow
from lingen.train.observers.observer import Observer, Step


class Reports(Observer):
    """Calls `log(step, metrics)` every `every` steps, at the end, and when another observer has measured something."""

    phase = "report"

    def __init__(self, every: int, metrics: MetricsWindow, log: Callable[[int, dict[str, float]], None]):
        self._every, self._metrics, self._log = every, metrics, log

    def after_step(self, step: Step) -> None:
        self._metrics.add(step)
        metrics = (self._metrics.reduce() if step.due(self._every) else {}) | step.metrics
        if metrics:
            self._log(step.done, metrics)
