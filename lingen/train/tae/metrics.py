"""The metrics of a TAE's report: those of the newest step, and the time per step since the last report."""

from __future__ import annotations

from lingen.train.observers.observer import Step


class TAEMetrics:
    """Keeps the newest step and the time of all since the last report."""

    def __init__(self) -> None:
        self._newest: Step | None = None
        self._steps, self._seconds = 0, 0.0

    def add(self, step: Step) -> None:
        """Count a step."""
        self._newest = step
        self._steps += 1
        self._seconds += step.seconds

    def reduce(self) -> dict[str, float]:
        """Parts of the loss, gradient norm and learning rate of the newest step; mean seconds of a step."""
        assert self._newest is not None, "reduce() comes after a step"
        metrics = {name: value.item() for name, value in self._newest.losses.items()}
        metrics |= {"grad_norm": self._newest.grad_norm, "lr": self._newest.lr, "step_s": self._seconds / self._steps}
        self._steps, self._seconds = 0, 0.0
        return metrics
