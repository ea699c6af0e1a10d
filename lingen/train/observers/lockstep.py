"""What ranks tell each other once a step, so that all of them act on it at the same step boundary."""

from __future__ import annotations

import datetime
from typing import Any

import torch
import torch.distributed as dist

from lingen.train.observers.observer import Observer, Step


class Lockstep(Observer):
    """One small all-reduce on CPU a step: started before the forward pass, read after it, hidden behind the work.

    As an observer it takes `Step.flags`; it comes first of all, so that the others have said theirs.

    Args: timeout_s, how long to wait for the slowest rank (None: torch's default).
    """

    def __init__(self, timeout_s: float | None = None):
        self._alone = dist.get_world_size() == 1
        timeout = None if timeout_s is None else datetime.timedelta(seconds=timeout_s)
        # A group of its own: on the GPU's, these few bytes would make the host wait for the device.
        self._group = None if self._alone else dist.new_group(backend="gloo", timeout=timeout)

    def before_step(self, step: Step) -> None:
        self.say(*step.flags.values())

    def after_step(self, step: Step) -> None:
        step.flags = dict(zip(step.flags, self.hear()))

    def say(self, *flags: int) -> None:
        """Tell the others; every rank gives as many."""
        self._flags = torch.tensor(flags, dtype=torch.int64)
        if not self._alone:
            self._work = dist.all_reduce(self._flags, op=dist.ReduceOp.MAX, group=self._group, async_op=True)

    def hear(self) -> list[int]:
        """The largest that any rank said, flag by flag."""
        if not self._alone:
            self._work.wait()
        return self._flags.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order. For rare events: it pickles."""
        if self._alone:
            return [value]
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self._group)
        return values
