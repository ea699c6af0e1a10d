"""Averages of sharded weights: every rank averages the shard that it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lingen.train.ranks import local


class EMA:
    """Exponential moving averages of a model's parameters, sharded as they are (DTensors stay DTensors).

    The decay grows with the number of updates n as min(decay, (1 + n) / (10 + n)), so that a short run is not held back
    by its start. After `uniform_after` updates the average starts over, and all later updates have equal weight (model
    averaging, at the end of quality tuning).
    """

    def __init__(self, model: nn.Module, decay: float, updates: int = 0, uniform_after: int | None = None):
        self.decay, self.updates, self.uniform_after = decay, updates, uniform_after
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the averages towards the model's weights."""
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
        """Give the model the averaged weights inside the block, and its own again after it."""
        _reshard(model)
        parameters = dict(model.named_parameters())
        own = {name: local(p.detach()).clone() for name, p in parameters.items()}
        with torch.no_grad():
            for name, p in parameters.items():
                local(p).copy_(local(self.weights[name]))
        try:
            yield
        finally:
            _reshard(model)
            with torch.no_grad():
                for name, p in parameters.items():
                    local(p).copy_(own[name])


def _reshard(model: nn.Module) -> None:
    """Drop what FSDP2 gathered: without a backward pass the root stays gathered, and computes with those weights on."""
    if isinstance(model, FSDPModule):
        model.reshard()
