"""What ranks tell each other once a step, so that all act on it at the same step boundary."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

from lingen.train.observers.observer import Observer, Step
from lingen.train.ranks import cpu_group

T = TypeVar("T")


class Lockstep(Observer):
    """One small all-reduce on the CPU per step: started before the forward pass, read after it, hidden by the work.

    As an observer it exchanges `Step.flags`. It is the first of the observers, so that all others have set theirs.

    Args:
        timeout_s: how long to wait for the slowest rank; None is torch's default.
    """

    def __init__(self, timeout_s: float | None = None):
        # A separate group: on the GPU's, these few bytes would make the host wait for the device.
        self._group = cpu_group(timeout_s) if dist.get_world_size() > 1 else None
        self._flags = torch.zeros(0, dtype=torch.int64)
        self._work: dist.Work | None = None

    def before_step(self, step: Step) -> None:
        self.send(*step.flags.values())

    def after_step(self, step: Step) -> None:
        step.flags = dict(zip(step.flags, self.receive()))

    def send(self, *flags: int) -> None:
        """Start the exchange; every rank gives the same number of flags."""
        self._flags = torch.tensor(flags, dtype=torch.int64)
        if self._group is not None:
            self._work = dist.all_reduce(self._flags, op=dist.ReduceOp.MAX, group=self._group, async_op=True)

    def receive(self) -> list[int]:
        """Wait for the exchange. Returns the largest value of any rank, flag by flag."""
        if self._work is not None:
            self._work.wait()
        return self._flags.tolist()

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order. For rare events: it pickles."""
        if self._group is None:
            return [value]
        values = [value] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self._group)
        return values
