"""Exponential moving average of sharded weights: every rank averages the shard it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class EMA:
    """Averages of a model's parameters, sharded as they are (DTensors stay DTensors).

    The decay grows with the number of updates n as min(decay, (1 + n) / (10 + n)), so that a short run is not held back
    by its start. After `uniform_after` updates the average starts anew and every later update counts alike (model
    averaging, as quality tuning ends).
    """

    def __init__(self, model: nn.Module, decay: float, updates: int = 0, uniform_after: int | None = None):
        self.decay, self.updates, self.uniform_after = decay, updates, uniform_after
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        if self.uniform_after is not None and self.updates > self.uniform_after:
            decay = 1 - 1 / (self.updates - self.uniform_after)
        else:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine = [local(w) for w in self.weights.values()]
        theirs = [local(p.detach()) for _, p in model.named_parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    @contextlib.contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The model with averaged weights inside the block, with its own again after it."""
        parameters = dict(model.named_parameters())
        own = {name: local(p.detach()).clone() for name, p in parameters.items()}
        with torch.no_grad():
            for name, p in parameters.items():
                local(p).copy_(local(self.weights[name]))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in parameters.items():
                    local(p).copy_(own[name])


def local(tensor: Tensor) -> Tensor:
    """The shard of a DTensor that this rank holds; a plain tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
