"""The exact frame of a cut, and how much it stands out there, where the pass that found it left frames out.

Frames are left out unevenly, and a longer step changes more: what may be a cut is decoded again, frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import av
import numpy as np

from data_prep.measure.cuts import NEIGHBOURS, Candidate, CutFinder, ShotConfig, is_cut
from data_prep.media.frames import HALF_TICK_S, decode, worth_seeking
from data_prep.media.planes import planes
from data_prep.media.probe import Probe

SUSPECT = ShotConfig(min_change=8.0, min_histogram=0.04, min_ratio=2.0)
"""Below the thresholds for cuts: weaker candidates stay as they are, because decoding again costs a seek."""


def exact(path: str, known: Probe, found: Sequence[Candidate], threads: int = 1) -> list[Candidate]:
    """Locate candidates among all frames.

    Args:
        path: a video.
        known: its probe.
        found: the candidates of a pass that may have left frames out.
        threads: for decoding, 0 for all cores.
    Returns:
        The candidates in order of time, without those that are none among all frames.
    Raises:
        MediaError: the file cannot be opened.
    """
    # The frames between the two of each candidate: indices [first, last).
    first, last = np.searchsorted(
        known.times_s, [[c.before_s + HALF_TICK_S for c in found], [c.seconds - HALF_TICK_S for c in found]]
    )
    unsure = [i for i, c in enumerate(found) if last[i] > first[i] and is_cut(c, SUSPECT)]
    end = len(known.times_s) - 1
    runs: list[list[float]] = []
    for i in unsure:
        lo = known.times_s[max(0, first[i] - 1 - NEIGHBOURS)]
        hi = known.times_s[min(end, last[i] + NEIGHBOURS)]
        if runs and lo <= runs[-1][1]:
            runs[-1][1] = hi
        else:
            runs.append([lo, hi])
    seen = [CutFinder() for _ in runs]
    for run, seconds, frame in _frames(path, known, runs, threads):
        seen[run].add(seconds, planes(frame))
    better = [c for finder in seen for c in finder.candidates()]
    out = [c for i, c in enumerate(found) if i not in unsure]
    for i in unsure:
        inside = [c for c in better if found[i].before_s + HALF_TICK_S < c.seconds < found[i].seconds + HALF_TICK_S]
        out += [max(inside, key=lambda c: c.change)] if inside else []
    return sorted(out)


def _frames(
    path: str, known: Probe, runs: Sequence[Sequence[float]], threads: int
) -> Iterator[tuple[int, float, av.VideoFrame]]:
    """Yield (index of the run, seconds, frame) for all frames of each run [from, to], in order."""
    at = 0
    while at < len(runs):
        with closing(decode(path, known, runs[at][0], threads)) as frames:
            for seconds, frame in frames:
                before = at
                while at < len(runs) and seconds > runs[at][1] + HALF_TICK_S:
                    at += 1
                if at == len(runs) or (at > before and worth_seeking(known, seconds, runs[at][0])):
                    break
                if seconds > runs[at][0] - HALF_TICK_S:
                    yield at, seconds, frame
            else:
                return
