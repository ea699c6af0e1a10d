import pytest

from data_prep.curate.thresholds import FilterConfig
from data_prep.curate.what_if import grid


def test_each_threshold_is_varied_with_all_others_as_configured(make):
    rows = [
        {"motion": m, "technical": t, "seconds": 3600.0} for m, t in ((0.1, 9.0), (1.0, 9.0), (2.0, 9.0), (3.0, 1.0))
    ]
    choices = grid(make(*rows).found, FilterConfig(min_motion=0.5))
    motion = [c for c in choices if c.rule == "min_motion"]
    assert [c.threshold for c in motion] == sorted(c.threshold for c in motion)
    now = next(c for c in motion if c.configured)
    assert (now.threshold, now.clips, now.hours) == (0.5, 2, pytest.approx(2.0))  # the last one fails technical
    assert motion[0].clips == 3
    technical = next(c for c in choices if c.rule == "min_technical" and c.configured)
    assert technical.clips == 2


def test_maximum_limits_run_from_loose_to_strict_and_stopped_spans_never_count(make):
    rows = [{"motion": m, "seconds": 3600.0} for m in (10.0, 20.0, 30.0)]
    rows.append({"motion": 1.0, "seconds": 3600.0, "stage": "spans", "verdict": "drop", "reason": "leftover"})
    choices = [c for c in grid(make(*rows).found, FilterConfig(max_motion=25)) if c.rule == "max_motion"]
    assert [c.threshold for c in choices] == sorted((c.threshold for c in choices), reverse=True)
    assert (choices[0].threshold, choices[0].clips, choices[-1].clips) == (30.0, 3, 1)
    assert next(c for c in choices if c.configured).clips == 2
