"""What another threshold would keep: clips and hours over a grid, from stored measurements alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_prep.curate.candidates import Candidates
from data_prep.curate.thresholds import REASONS, FilterConfig, apply_thresholds

PERCENTILES = (0, 5, 10, 25, 50, 75, 90)


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
