"""Thresholds on scores. Nothing is decoded here: scores are measured once, thresholds move as often as one likes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

Threshold = float | str | None
"""A number, a percentile of the clips at hand such as "p25", or None for no limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Each limit is a number, a percentile (p25: drop the lowest or highest quarter as the rule goes), or None."""

    max_damaged: Threshold = 0.05
    """Share of frames missing or decoded with errors."""
    min_side: Threshold = 96
    """Pixels of the shorter side, as shown."""
    max_black: Threshold = 0.3
    """Share of samples that are black."""
    max_bars: Threshold = 0.25
    """Share of the picture under black bars."""
    min_brightness: Threshold = 8
    """Mean luminance, 0 to 255."""
    min_motion: Threshold = 0.3
    """Camera and objects together, percent of the diagonal per second."""
    max_frozen: Threshold = 0.6
    """Share of samples that are the same picture as the one before."""
    max_motion: Threshold = 60
    """Faster than this is a blur."""
    min_scene_motion: Threshold = 0.3
    """Motion that the camera does not explain; a pan or zoom over a still picture stays below. 0 lets those pass."""
    max_jitter: Threshold = 40
    """Median change of the camera's speed from sample to sample, percent of the diagonal per second."""
    min_technical: Threshold = 3.0
    """Sharpness, contrast, exposure and colour, 0 to 10. Says nothing of beauty."""
    max_text_area: Threshold = 0.07
    """Share of the picture under lettering: subtitles, titles, screens."""
    min_aesthetic: Threshold = None
    """LAION aesthetic score, about 1 to 10 (4.5 is usual); needs --aesthetic.head."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and not re.fullmatch(r"p(100|\d{1,2})(\.\d+)?", value):
                flag = field.name.replace("_", "-")
                raise ValueError(f"--filter.{flag}: {value!r} is no number, no percentile such as p25, and not None")


REASONS = {
    "max_damaged": "damaged",
    "min_side": "too_small",
    "max_black": "black",
    "max_bars": "black_bars",
    "min_brightness": "too_dark",
    "min_motion": "still",
    "max_frozen": "frozen",
    "max_motion": "too_fast",
    "min_scene_motion": "only_camera_moves",
    "max_jitter": "jittery",
    "min_technical": "technical",
    "max_text_area": "text",
    "min_aesthetic": "aesthetic",
}
SCORE_OF = {rule: rule.split("_", 1)[1] for rule in REASONS} | {"min_side": "short_side"}


@dataclasses.dataclass(frozen=True)
class ThresholdOutcome:
    """One rule over all N clips. passed: bool (N,); score: float (N,), NaN where the rule does not apply."""

    rule: str
    reason: str
    score: np.ndarray
    threshold: float
    passed: np.ndarray


def apply(scores: Mapping[str, np.ndarray], config: FilterConfig) -> list[ThresholdOutcome]:
    """Every rule that has a threshold, in the order of REASONS, each over all clips (not only over those still in)."""
    out = []
    for rule, reason in REASONS.items():
        limit = getattr(config, rule)
        if limit is None:
            continue
        score = np.asarray(scores[SCORE_OF[rule]], np.float64)
        value = resolve(limit, score)
        passed = score >= value if rule.startswith("min_") else score <= value
        out.append(ThresholdOutcome(rule, reason, score, value, passed | np.isnan(score)))
    return out


def resolve(limit: float | str, score: np.ndarray) -> float:
    """The number behind a threshold."""
    if not isinstance(limit, str):
        return float(limit)
    known = score[~np.isnan(score)]
    return float(np.percentile(known, float(limit[1:]))) if len(known) else 0.0
