import numpy as np
import pytest

from data_prep.curate.scores import SCORES
from data_prep.curate.thresholds import (
    REASONS,
    SCORE_OF,
    CaptionConfig,
    FilterConfig,
    apply_thresholds,
    drop_by_thresholds,
    grid,
    pass_captioned,
    resolve,
)

NAN = np.nan


def scores(**given):
    n = len(next(iter(given.values())))
    return {name: np.asarray(given.get(name, [NAN] * n), float) for name in (*SCORES, "aesthetic")}


def outcome(rules, name):
    return next(r for r in rules if r.rule == name)


def test_limits_from_below_and_above_and_what_has_no_score_passes():
    rules = apply_thresholds(scores(motion=[0.1, 5, 99, NAN]), FilterConfig(min_motion=0.3, max_motion=60.0))
    assert outcome(rules, "min_motion").passed.tolist() == [False, True, True, True]
    assert outcome(rules, "max_motion").passed.tolist() == [True, True, False, True]
    assert outcome(rules, "min_technical").passed.all()


def test_percentiles_are_of_the_clips_that_have_the_score():
    motion = [*range(100), NAN, NAN]
    rule = outcome(apply_thresholds(scores(motion=motion), FilterConfig(min_motion="p25")), "min_motion")
    assert rule.passed[:100].sum() == 75
    assert rule.passed[100:].all()
    assert resolve("p50", np.array([1.0, 3.0])) == 2.0


def test_a_score_on_the_limit_passes():
    rules = apply_thresholds(scores(motion=[0.5, 60.0]), FilterConfig(min_motion=0.5, max_motion=60.0))
    assert outcome(rules, "min_motion").passed.all()
    assert outcome(rules, "max_motion").passed.all()


def test_a_percentile_of_no_scores_drops_nothing():
    rule = outcome(apply_thresholds(scores(motion=[NAN, NAN]), FilterConfig(min_motion="p25")), "min_motion")
    assert rule.threshold == 0
    assert rule.passed.all()


def test_none_switches_a_rule_off_and_no_other():
    rules = {r.rule for r in apply_thresholds(scores(motion=[0.0]), FilterConfig(min_motion=None, min_aesthetic=4.5))}
    assert rules == set(REASONS) - {"min_motion"}


def test_every_rule_has_a_score():
    assert set(SCORE_OF.values()) <= {*SCORES, "aesthetic"}


@pytest.mark.parametrize("text", ["25%", "p101", "high", "p", "pp5"])
def test_bad_thresholds_name_their_flag(text):
    with pytest.raises(ValueError, match=r"--filter\.min-motion"):
        FilterConfig(min_motion=text)


def test_every_rule_is_recorded_for_the_usable_clips_and_the_first_failure_is_the_reason(make):
    leftover = {"stage": "spans", "verdict": "drop", "reason": "leftover", "motion": 0.0}
    made = make({"motion": 5.0}, {"motion": 0.0, "technical": 1.0}, leftover)
    outcomes = drop_by_thresholds(made.found, made.ledger, FilterConfig(min_motion=1.0, min_technical=3.0))
    assert made.ledger.reason.tolist() == ["", "still", "leftover"]
    assert np.isnan(outcome(outcomes, "min_motion").score[2])
    assert outcome(outcomes, "min_technical").passed.tolist() == [True, False, True]


def test_clips_without_a_caption_go_unless_they_are_to_be_kept(make):
    for missing, reasons in (("drop", ["", "caption_missing"]), ("keep", ["", ""])):
        bare = {"stage": "caption", "verdict": "drop", "reason": "caption_missing", "detail": "it has no caption"}
        made = make({}, {"caption": ""} | (bare if missing == "drop" else {}))
        pass_captioned(made.found, made.ledger, CaptionConfig(missing=missing))
        assert made.ledger.reason.tolist() == reasons
    with pytest.raises(ValueError, match=r"--caption\.missing"):
        CaptionConfig(missing="maybe")


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
