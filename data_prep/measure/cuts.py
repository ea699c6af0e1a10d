"""Cuts between shots, on presentation times, so that variable frame rates are right.

Every decoded frame leaves a signature: luma and chroma samples on a coarse grid. From one frame to the next two things
are compared: the samples in place, and their histograms (of the upper and the lower half), which a moving camera or
object changes little. A cut is a change that stands out in both from the frames around it: a fast pan changes much, but
steadily, and a flicker changes only one of the two.

S: samples of a signature; B: histogram bins.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from data_prep.media.planes import Plane

GRID = (24, 40)
NEIGHBOURS = 4
"""Frames on either side that a change is compared with."""
FLOOR = 4.0
"""Smaller changes (levels of 255) are never cuts; larger ones that stand out at all are kept, so that thresholds can
move later."""
FLOOR_RATIO = 1.5
FLOOR_HISTOGRAM = 0.02
MOST_MISFIT = 0.35
"""Dissolves (data_prep.measure.dissolves) that fit worse are not kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShotConfig:
    min_change: float = 10.0
    """Mean change of luma and chroma (levels of 255) between two frames from which a cut is possible."""
    min_histogram: float = 0.05
    """Share of the picture whose levels change: a jump of the encoder at a key frame stays below."""
    min_ratio: float = 3.4
    """How much a cut stands out: the product of its change over the changes around it, in place and of histograms."""
    max_misfit: float = 0.22
    """How far the pictures of a dissolve may be from mixes of its ends, 0 to 0.35. Dissolves are cut out, at both ends;
    0 leaves them in."""

    def __post_init__(self):
        floors = {"min_change": FLOOR, "min_histogram": FLOOR_HISTOGRAM, "min_ratio": FLOOR_RATIO}
        for field, least in floors.items():
            if getattr(self, field) < least:
                flag = field.replace("_", "-")
                raise ValueError(f"--shots.{flag}: {getattr(self, field)} is under the smallest value kept ({least})")
        if not 0 <= self.max_misfit <= MOST_MISFIT:
            raise ValueError(
                f"--shots.max-misfit: {self.max_misfit} is not within 0 and the largest kept, {MOST_MISFIT}"
            )


class Candidate(NamedTuple):
    """A change between two neighbouring frames that may be a cut."""

    seconds: float
    """Time of the second frame."""
    change: float
    """As ShotConfig.min_change."""
    histogram: float
    """As ShotConfig.min_histogram."""
    ratio: float
    """As ShotConfig.min_ratio."""
    before_s: float = 0.0
    """Time of the first frame; known only in the pass that found it."""


class CutFinder:
    """Finds candidates from the planes of one frame after another."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.changes: list[float] = []
        self.histogram_changes: list[float] = []
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def samples(self) -> np.ndarray:
        """uint8 (S,): the signature of the last frame."""
        assert self._before is not None, "no frame has been added"
        return self._before[0]

    def add(self, seconds: float, planes: Sequence[Plane]) -> float:
        """Add a frame; returns its change from the one before, in levels of 255, 0 for the first."""
        samples = signature(planes)
        counts = histogram(samples)
        change = histogram_change = 0.0
        if self._before is not None and len(self._before[0]) == len(samples):
            change = cv2.norm(samples, self._before[0], cv2.NORM_L1) / (GRID[0] * GRID[1])
            # Smoothed over neighbouring levels, so that a little more light changes little.
            moved = np.convolve(counts - self._before[1], (0.25, 0.5, 0.25), "same")
            histogram_change = float(np.abs(moved).sum()) / (2 * len(samples))
        self._before = samples, counts
        self.times_s.append(seconds)
        self.changes.append(change)
        self.histogram_changes.append(histogram_change)
        return change

    def candidates(self) -> list[Candidate]:
        """All changes that some thresholds would make a cut."""
        changes, histograms = np.array(self.changes), np.array(self.histogram_changes)
        out = []
        for i in np.flatnonzero((changes >= FLOOR) & (histograms >= FLOOR_HISTOGRAM)).tolist():
            ratio = _stands_out(changes, i, 1.0) * _stands_out(histograms, i, 0.01)
            if ratio >= FLOOR_RATIO:
                times = self.times_s[i], self.times_s[i - 1]
                out.append(Candidate(times[0], float(changes[i]), float(histograms[i]), ratio, times[1]))
        return out


def cuts(found: Iterable[Candidate], config: ShotConfig) -> list[float]:
    """Seconds of the first frame of every shot but the first."""
    return [c.seconds for c in found if is_cut(c, config)]


def is_cut(c: Candidate, config: ShotConfig) -> bool:
    """Whether a candidate passes the thresholds."""
    return c.change >= config.min_change and c.histogram >= config.min_histogram and c.ratio >= config.min_ratio


def signature(planes: Sequence[Plane]) -> np.ndarray:
    """uint8 (S,): samples of the planes, luma first."""
    return np.concatenate([plane[_grid(plane.shape)].ravel() for plane in planes])


@functools.lru_cache(maxsize=16)
def _grid(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (np.linspace(0, n - 1, k).astype(np.intp) for n, k in zip(shape, GRID))
    return rows[:, None], columns


@functools.lru_cache(maxsize=4)
def _bins(count: int) -> np.ndarray:
    """First bin of each sample's plane and half of the picture."""
    return 32 * (np.arange(count) // (GRID[0] * GRID[1] // 2))


def histogram(samples: np.ndarray) -> np.ndarray:
    """int (B,): counts per plane and half of the picture, 32 levels each."""
    bins = _bins(len(samples))
    return np.bincount((samples >> 3) + bins, minlength=int(bins[-1]) + 32)


def _stands_out(values: np.ndarray, i: int, least: float) -> float:
    """values[i] over the mean of the two largest around it, which counts as `least` at least."""
    low, high = max(1, i - NEIGHBOURS), min(len(values), i + NEIGHBOURS + 1)
    around = np.sort(np.delete(values[low:high], i - low))[-2:]
    return float(values[i] / max(around.mean() if len(around) else 0.0, least))
