"""Dissolves: one shot fading into the next, or from and to black.

While A dissolves into B each picture is a mix of both, in step with time: the middle one is their mean, those between
lie on the line too (a linear model of the mixing on top of the twin comparison of Zhang et al. 1993). A camera or an
object that moves is not mixed but moved, and misses the line by far; a cut misses it by half. A change of exposure
alone is on the line too: there, B is A with another gain and level, and counts as nothing.

S: samples of a signature (of data_prep.measure.cuts).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import cv2
import numpy as np

from data_prep.measure.cuts import GRID, MOST_MISFIT

RATE = 8.0
"""Signatures per second that are compared."""
HALVES = (2, 4, 8)
"""Half lengths that are looked for, in signatures: dissolves of about half a second, one and two."""
FLOOR = 17.0
"""Mean difference of A and B (levels of 255), at least."""
FLOOR_CONTENT = 8.0
"""And what of it no gain and level explains."""


class Dissolve(NamedTuple):
    """Seconds of the first and last mixed picture; misfit: how far those between are from the line, over the difference
    of the two, 0 to MOST_MISFIT."""

    start_s: float
    end_s: float
    misfit: float


class DissolveFinder:
    """Takes the signature of one frame after another; `found` at the end."""

    def __init__(self):
        self._near: deque[tuple[float, np.ndarray]] = deque(maxlen=2 * HALVES[-1] + 1)
        self._next_s = 0.0
        self._found: list[tuple[float, Dissolve]] = []

    def add(self, seconds: float, samples: np.ndarray) -> None:
        """samples: uint8 (S,)."""
        if seconds < self._next_s - 1e-3:
            return
        self._next_s = max(self._next_s, seconds - 0.5 / RATE) + 1 / RATE
        self._near.append((seconds, samples))
        for half in HALVES:
            if len(self._near) > 2 * half:
                change, misfit = _compare([self._near[i] for i in range(-1 - 2 * half, 0, half // 2)])
                if misfit <= MOST_MISFIT:
                    # A part of a dissolve fits too, but changes less.
                    self._found.append(
                        (change * (1 - 2 * misfit), Dissolve(self._near[-1 - 2 * half][0], seconds, misfit))
                    )

    def found(self) -> list[Dissolve]:
        """Apart from each other: of those that overlap, the one that changes much and fits well."""
        out: list[Dissolve] = []
        for _, one in sorted(self._found, reverse=True):
            if all(one.end_s <= other.start_s or one.start_s >= other.end_s for other in out):
                out.append(one)
        return sorted(out)


def _compare(near: list[tuple[float, np.ndarray]]) -> tuple[float, float]:
    """(change from the first to the last, misfit of those between) of five signatures with their times; the misfit is
    infinite where this is no dissolve."""
    (start, first), (end, last) = near[0], near[-1]
    if len(first) != len(last):
        return 0.0, np.inf
    change = cv2.norm(first, last, cv2.NORM_L1)
    if change < FLOOR * len(first):
        return change, np.inf
    worst = 0.0
    for seconds, samples in near[1:-1]:
        share = (seconds - start) / (end - start)
        worst = max(worst, cv2.norm(samples, cv2.addWeighted(first, 1 - share, last, share, 0), cv2.NORM_L1))
        if worst > MOST_MISFIT * change:
            return change, np.inf
    luma = GRID[0] * GRID[1]
    a, b = (part[:luma].astype(np.float32) for part in (first, last))
    content = max(_unexplained(a, b), _unexplained(b, a))
    return change / len(first), worst / change if content >= FLOOR_CONTENT else np.inf


def _unexplained(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of b and the gain and level of `a` that come nearest to it."""
    a, b = a - a.mean(), b - b.mean()
    return float(np.abs(b - a * (a @ b) / max(float(a @ a), len(a))).mean())
