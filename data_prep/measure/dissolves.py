"""Dissolves: one shot fading into the next, or from and to black.

While A dissolves into B each picture is a mix of both, in step with time: the middle one is their mean, and those
between are on the line from A to B too (a linear model of the mixing on top of the twin comparison of Zhang et al.
1993). Motion of the camera or of an object is far off the line; a cut is off by half. A change of exposure alone is on
the line too: there B is A with another gain and level, and does not count.

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
"""Half lengths that are tried, in signatures: dissolves of about half a second, one and two."""
FLOOR = 17.0
"""Least mean difference of A and B (levels of 255)."""
FLOOR_CONTENT = 8.0
"""Least part of it that no gain and level explains."""


class Dissolve(NamedTuple):
    """A stretch of mixed pictures."""

    start_s: float
    """Time of the first one."""
    end_s: float
    """Time of the last one."""
    misfit: float
    """Distance of those between from the line, over the difference of the ends: 0 to MOST_MISFIT."""


class DissolveFinder:
    """Finds dissolves from the signature of one frame after another."""

    def __init__(self) -> None:
        self._near: deque[tuple[float, np.ndarray]] = deque(maxlen=2 * HALVES[-1] + 1)
        self._next_s = 0.0
        self._found: list[tuple[float, Dissolve]] = []

    def add(self, seconds: float, samples: np.ndarray) -> None:
        """Add a frame's signature, uint8 (S,)."""
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
        """The dissolves in order of time; of several that overlap, the one that changes most and fits best."""
        out: list[Dissolve] = []
        for _, one in sorted(self._found, reverse=True):
            if all(one.end_s <= other.start_s or one.start_s >= other.end_s for other in out):
                out.append(one)
        return sorted(out)


def _compare(near: list[tuple[float, np.ndarray]]) -> tuple[float, float]:
    """(change from the first to the last, misfit of those between) of five signatures with their times; an infinite
    misfit where it is not a dissolve."""
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
    """Mean difference between b and the best fit to it by a gain and a level of `a`."""
    a, b = a - a.mean(), b - b.mean()
    return float(np.abs(b - a * (a @ b) / max(float(a @ a), len(a))).mean())
