"""Thresholds on scores, what others would keep, and the demand for a caption. Scores are computed once, thresholds can
change at any time.

N: clips.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from data_prep.curate.candidates import Candidates
from data_prep.curate.ledger import Ledger
from lingen.io.manifest import digest

Threshold = float | str | None
"""A number, a percentile of the clips at hand such as "p25", or None for no limit."""
PERCENTILES = (0, 5, 10, 25, 50, 75, 90)
"""Of the clips that `grid` cuts off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Each limit is a number, a percentile (p25: drop the lowest quarter, or the highest for a max- limit), or None."""

    max_damaged: Threshold = 0.05
    """Share of frames missing or decoded with errors."""
    min_side: Threshold = 96
    """Pixels of the shorter side, as displayed."""
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
    """Sharpness, contrast, exposure and colour, 0 to 10. Not a measure of beauty."""
    max_text_area: Threshold = 0.07
    """Share of the picture covered by text: subtitles, titles, screens."""
    min_aesthetic: Threshold = None
    """LAION aesthetic score, about 1 to 10 (4.5 is usual); needs --aesthetic.head."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and not re.fullmatch(r"p(100|\d{1,2})(\.\d+)?", value):
                flag = field.name.replace("_", "-")
                raise ValueError(f"--filter.{flag}: {value!r} is neither a number, a percentile such as p25, nor None")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    missing: str = "drop"
    """What happens to clips without a caption: drop or keep."""

    def __post_init__(self):
        if self.missing not in ("drop", "keep"):
            raise ValueError(f"--caption.missing: {self.missing!r} is neither drop nor keep")

    @property
    def required(self) -> bool:
        """Whether clips without a caption are dropped, before they are read."""
        return self.missing == "drop"


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
    """One rule applied to all N clips."""

    rule: str
    reason: str
    score: np.ndarray
    """float (N,), NaN where the rule does not apply."""
    threshold: float
    passed: np.ndarray
    """bool (N,)."""


def drop_by_thresholds(found: Candidates, ledger: Ledger, config: FilterConfig) -> list[ThresholdOutcome]:
    """Apply every threshold to the usable clips, and record each in the ledger."""
    outcomes = apply_thresholds(found.scores(), config)
    config_hash, usable = digest(config), found.usable
    for rule in outcomes:
        verdict, reason = np.where(rule.passed, "keep", "drop"), np.where(rule.passed, "", rule.reason)
        ledger.decide(rule.rule, verdict, reason, "", rule.score, rule.threshold, config_hash, usable)
    return outcomes


def pass_captioned(found: Candidates, ledger: Ledger, config: CaptionConfig) -> None:
    """Record that the usable clips have captions, if they need them: the others were stopped before they were read."""
    if config.required:
        ledger.decide("caption", "keep", config_hash=digest(config), where=found.usable)


def apply_thresholds(scores: Mapping[str, np.ndarray], config: FilterConfig) -> list[ThresholdOutcome]:
    """Apply every rule that has a threshold, in the order of REASONS, to all clips, not only to those still kept.

    Args:
        scores: float (N,) by name, NaN where a score has no meaning.
    """
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
    """The number that a threshold stands for, given the scores (N,) of the clips at hand."""
    if not isinstance(limit, str):
        return float(limit)
    known = score[~np.isnan(score)]
    return float(np.percentile(known, float(limit[1:]))) if len(known) else 0.0


@dataclasses.dataclass(frozen=True)
class Choice:
    """How many clips and hours of video pass with one value of one threshold, all others as configured."""

    rule: str
    threshold: float
    configured: bool
    clips: int
    hours: float


def grid(found: Candidates, config: FilterConfig) -> list[Choice]:
    """Try, for each rule with scores, the configured value and the values that cut off 0 to 90 percent of the clips."""
    usable, scores, seconds = found.usable, found.scores(), np.nan_to_num(found.array("seconds"))
    outcomes = {rule.rule: rule for rule in apply_thresholds(scores, config)}
    out = []
    for rule in (r for r in REASONS if r in outcomes):
        others = usable.copy()
        for name, outcome in outcomes.items():
            if name != rule:
                others &= outcome.passed
        score, is_minimum = outcomes[rule].score, rule.startswith("min_")
        known = score[np.isfinite(score)]
        if not len(known):
            continue
        cuts = {float(np.percentile(known, p if is_minimum else 100 - p)) for p in PERCENTILES}
        configured = outcomes[rule].threshold
        for value in sorted(cuts | {configured}, reverse=not is_minimum):
            passed = others & ((score >= value if is_minimum else score <= value) | np.isnan(score))
            hours = float(seconds[passed].sum() / 3600)
            out.append(Choice(rule, value, value == configured, int(passed.sum()), hours))
    return out
