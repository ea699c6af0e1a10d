"""Requests to save or to stop: noticed by any rank, obeyed by all at the same step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch.distributed as dist

from lingen.train.observers.observer import Observer, Step
from lingen.train.observers.preemption import Notice

ASK_TOGETHER_S = 10.0
"""seconds between calls of `notice_together`"""


def no_notice() -> Notice:
    """Never asks for anything."""
    return Notice.NONE


class StopRequests(Observer):
    """Sets a step's notice to the strongest that any rank has noticed.

    Args:
        notice: asked at every step, on every rank by itself.
        notice_together: asked a few times a minute, on all ranks at the same step: it may be a collective.
    """

    def __init__(self, notice: Callable[[], Notice], notice_together: Callable[[], Notice] = no_notice):
        self._notice, self._notice_together = notice, notice_together
        self._asked = time.perf_counter()

    def before_step(self, step: Step) -> None:
        ask = dist.get_rank() == 0 and time.perf_counter() - self._asked > ASK_TOGETHER_S
        step.flags |= {"notice": self._notice(), "ask_together": ask}

    def after_step(self, step: Step) -> None:
        step.notice = Notice(step.flags["notice"])
        if step.flags["ask_together"]:
            self._asked = time.perf_counter()
            step.notice = max(step.notice, self._notice_together())
