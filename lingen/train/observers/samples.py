"""Samples when they are due, drawn with the averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

from lingen.train.ema import EMA
from lingen.train.observers.observer import Observer, Step

Model = TypeVar("Model", bound=nn.Module)


class Samples(Observer, Generic[Model]):
    """Calls `sample(step, model)` on every rank every `every` steps and at the end (0: at the end only)."""

    phase = "sample"

    def __init__(self, every: int, model: Model, ema: EMA, sample: Callable[[int, Model], None]):
        self._every, self._model, self._ema, self._sample = every, model, ema, sample

    def after_step(self, step: Step) -> None:
        if step.due(self._every):
            with self._ema.applied_to(self._model):
                self._sample(step.done, self._model)
