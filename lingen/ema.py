"""Exponential moving average of sharded weights: every rank averages the shard it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class EMA:
    """Averages of a model's parameters, sharded as they are (DTensors stay DTensors).

    The decay grows with the number of updates n as min(decay, (1 + n) / (10 + n)), so that a short run is not held back
    by its start.
    """

    def __init__(self, model: nn.Module, decay: float, updates: int = 0):
        self.decay, self.updates = decay, updates
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
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
