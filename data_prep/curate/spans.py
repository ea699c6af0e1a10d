"""Spans: the parts of a video that become clips. A span never crosses a cut.

Without lengths each shot is one span, kept unless it is shorter than a second: encoding takes the segments that fit.
With the lengths of a recipe's stages (17, 34 and 68 seconds) a shot is cut into as many of the longest as fit, then of
the next, so that every clip fills a segment and is scored by itself; what remains is a leftover, reported and not used.
"""

from __future__ import annotations

import dataclasses
import itertools

from lingen.model.stages import STAGES

TICK_S = 1e-3
"""Matroska rounds times to this."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanConfig:
    lengths_s: tuple[float, ...] = ()
    """Seconds that clips are cut to, such as 17 34 68; empty: a whole shot is a clip."""
    stages: tuple[str, ...] = ()
    """The same, by names of the paper's stages, such as t2v_512p_17s t2v_512p_68s."""
    min_s: float = 1.0
    """Shorter clips are dropped as too_short (without lengths)."""

    def __post_init__(self):
        if any(length <= 0 for length in self.lengths_s):
            raise ValueError("--spans.lengths-s: every length must be above 0")
        videos = [stage.name for stage in STAGES if stage.seconds]
        for name in self.stages:
            if name not in videos:
                raise ValueError(f"--spans.stages: {name!r} is not a video stage; use {', '.join(videos)}")

    @property
    def lengths(self) -> tuple[float, ...]:
        """All lengths asked for, longest first."""
        of_stages = {stage.seconds for stage in STAGES if stage.name in self.stages}
        return tuple(sorted(of_stages | set(self.lengths_s), reverse=True))


@dataclasses.dataclass(frozen=True)
class Span:
    """[start_s, end_s) in seconds from the first shown frame."""

    start_s: float
    end_s: float
    reason: str = ""
    """Why it is not a clip (leftover, too_short, dissolve), or ""."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.start_s


def spans(duration_s: float, cuts_s: list[float], config: SpanConfig) -> list[Span]:
    """Divide a whole video into spans, in order and without gaps; a span that is not a clip says why.

    Args:
        duration_s: length of the video.
        cuts_s: times of its cuts, in any order.
    """
    edges = [0.0]
    for cut in sorted(cuts_s):
        if edges[-1] + TICK_S < cut < duration_s - TICK_S:
            edges.append(cut)
    edges.append(duration_s)
    out = []
    for start, end in itertools.pairwise(edges):
        out += _of_shot(start, end, config)
    return out


def _of_shot(start: float, end: float, config: SpanConfig) -> list[Span]:
    if not config.lengths:
        return [Span(start, end, "too_short" if end - start < config.min_s - TICK_S else "")]
    out = []
    for length in config.lengths:
        while end - start >= length - TICK_S:
            out.append(Span(start, min(start + length, end)))
            start = out[-1].end_s
    if end - start > TICK_S:
        out.append(Span(start, end, "leftover"))
    return out
