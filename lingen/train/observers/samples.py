"""Sample videos at their time, drawn with the averaged weights."""

from __future__ import annotations

from collections.abc import Callable

from lingen.model.denoiser import Denoiser
from lingen.train.ema import EMA
from lingen.train.observers.observer import Observer, Step


class Samples(Observer):
    """Calls `sample(step, model)` on every rank every `every` steps and at the end (0: at the end only)."""

    phase = "sample"

    def __init__(self, every: int, model: Denoiser, ema: EMA, sample: Callable[[int, Denoiser], None]):
        self._every, self._model, self._ema, self._sample = every, model, ema, sample

    def after_step(self, step: Step) -> None:
        if step.due(self._every):
            with self._ema.applied_to(self._model):
                self._sample(step.done, self._model)
