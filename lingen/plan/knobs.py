"""What would make a stage fit: settings changed one after the other, each traced, until the peak is low enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from lingen.plan.step_trace import Workload, trace


def remedy(work: Workload, usable_bytes: float) -> str:
    """Words for the settings that make a step fit, with the peak that a trace of them gives."""
    words: list[str] = []
    peaks: list[float] = []
    for what, changed in _changes(work):
        words.append(what)
        peaks.append(trace(changed).peak_bytes)
        if peaks[-1] <= usable_bytes:
            return f"{' and '.join(words)} would bring it to {peaks[-1] / 2**30:.1f} GiB (traced)"
    best = f"the least that settings can bring it to is {min(peaks) / 2**30:.1f} GiB (traced); " if peaks else ""
    return f"{best}use a card with more memory, a smaller model or shorter videos"


def _changes(work: Workload) -> Iterator[tuple[str, Workload]]:
    """Settings that save memory, those that cost the least time first; each keeps the ones before it."""
    while work.micro_batch > 1:
        work = _with_fit(work, micro_batch=work.micro_batch // 2)
        if work.micro_batch == 1 or work.fit.activation_checkpointing:
            yield f"fit.micro_batch {work.micro_batch}", work
    if not work.fit.activation_checkpointing:
        work = _with_fit(work, activation_checkpointing=True)
        yield "fit.activation_checkpointing on", work
    if work.fit.shard_group and work.fit.shard_group < work.ranks:
        work = _with_fit(work, shard_group=0)
        yield "fit.shard_group 0", work


def _with_fit(work: Workload, **changes: Any) -> Workload:
    return dataclasses.replace(work, fit=dataclasses.replace(work.fit, **changes))


def largest_micro_batch(work: Workload, usable_bytes: float) -> int:
    """The most samples that a rank can take at once, a divisor of its share; 0: not even one fits.

    Memory is a constant and a part that grows with the micro-batch, so two traces find it and a third one proves it.
    """
    sizes = [n for n in range(1, work.samples + 1) if work.samples % n == 0]

    def peak(size: int) -> float:
        return trace(_with_fit(work, micro_batch=size)).peak_bytes

    one = peak(1)
    if one > usable_bytes:
        return 0
    if len(sizes) == 1:
        return 1
    slope = (peak(sizes[1]) - one) / (sizes[1] - 1)
    likely = [n for n in sizes if one + slope * (n - 1) <= usable_bytes]
    while likely[-1] > sizes[1] and peak(likely[-1]) > usable_bytes:
        likely.pop()
    return likely[-1]
