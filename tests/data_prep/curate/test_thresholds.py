import numpy as np
import pytest

from data_prep.curate.scores import SCORES
from data_prep.curate.thresholds import SCORE_OF, FilterConfig, apply, resolve

NAN = np.nan


def scores(**given):
    n = len(next(iter(given.values())))
    return {name: np.asarray(given.get(name, [NAN] * n), float) for name in (*SCORES, "aesthetic")}


def outcome(rules, name):
    return next(r for r in rules if r.rule == name)


def test_limits_from_below_and_above_and_what_has_no_score_passes():
    rules = apply(scores(motion=[0.1, 5, 99, NAN]), FilterConfig(min_motion=0.3, max_motion=60.0))
    assert outcome(rules, "min_motion").passed.tolist() == [False, True, True, True]
    assert outcome(rules, "max_motion").passed.tolist() == [True, True, False, True]
    assert outcome(rules, "min_technical").passed.all()


def test_percentiles_are_of_the_clips_that_have_the_score():
    motion = [*range(100), NAN, NAN]
    rule = outcome(apply(scores(motion=motion), FilterConfig(min_motion="p25")), "min_motion")
    assert rule.passed[:100].sum() == 75
    assert rule.passed[100:].all()
    assert resolve("p50", np.array([1.0, 3.0])) == 2.0


def test_none_switches_a_rule_off():
    assert not any(r.rule == "min_motion" for r in apply(scores(motion=[0.0]), FilterConfig(min_motion=None)))


def test_every_rule_has_a_score():
    assert set(SCORE_OF.values()) <= {*SCORES, "aesthetic"}


@pytest.mark.parametrize("text", ["25%", "p101", "high", "p", "pp5"])
def test_bad_thresholds_name_their_flag(text):
    with pytest.raises(ValueError, match=r"--filter\.min-motion"):
        FilterConfig(min_motion=text)
