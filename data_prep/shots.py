"""Where one shot ends and the next begins, on presentation times, so that variable frame rates are right.

Every decoded frame leaves a signature: a coarse grid of luma and chroma samples. A cut is a change of signature that is
large and stands out from the changes around it (a fast pan changes much, but steadily).
"""

from __future__ import annotations

import dataclasses

import numpy as np

GRID = (24, 40)
FLOOR = 4.0
"""Changes below this are never cuts; above it they are kept as candidates, so that thresholds can move later."""
NEIGHBOURS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShotConfig:
    min_change: float = 14.0
    """Mean change of luma and chroma (levels of 255) between two frames from which a cut is possible."""
    min_ratio: float = 2.5
    """How many times the changes around it a cut's change must be."""

    def __post_init__(self):
        if self.min_change < FLOOR:
            raise ValueError(f"--shots.min-change: {self.min_change} is under the smallest change kept ({FLOOR})")


def signature(planes: list[np.ndarray]) -> np.ndarray:
    """int16 (S,): samples of the luma plane and, where there are any, the chroma planes on a coarse grid."""
    parts = []
    for plane in planes:
        rows = np.linspace(0, plane.shape[0] - 1, GRID[0]).astype(np.intp)
        columns = np.linspace(0, plane.shape[1] - 1, GRID[1]).astype(np.intp)
        parts.append(plane[rows[:, None], columns].ravel())
    return np.concatenate(parts).astype(np.int16)


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute change per luma sample, chroma counted in."""
    return float(np.abs(after - before).sum(dtype=np.int64)) / (GRID[0] * GRID[1])


def candidates(times_s: np.ndarray, changes: np.ndarray) -> list[tuple[float, float, float]]:
    """(time of the first frame after, change, ratio to the neighbourhood) of every change above FLOOR.

    Args: times_s (N,) of frames; changes (N,), change[i] from frame i-1 to i, change[0] = 0.
    """
    out = []
    for i in np.flatnonzero(changes >= FLOOR):
        low, high = max(1, i - NEIGHBOURS), min(len(changes), i + NEIGHBOURS + 1)
        around = np.delete(changes[low:high], i - low)
        level = max(float(np.sort(around)[-2:].mean()) if len(around) else 0.0, 1.0)
        out.append((float(times_s[i]), float(changes[i]), float(changes[i]) / level))
    return out


def cuts(found: list[tuple[float, float, float]], config: ShotConfig) -> list[float]:
    """Times (seconds) of the first frame of every shot but the first."""
    return [t for t, size, ratio in found if size >= config.min_change and ratio >= config.min_ratio]
