"""Skipped updates and rewinds, in training with one process."""

import json
import math

import pytest
import torch

from lingen.train.checkpoint import checkpoints, step_of
from lingen.train.observers.skips import SKIPPED, SkippedSteps


def test_a_replayed_step_is_recorded_once_and_half_a_line_is_dropped(tmp_path):
    SkippedSteps(tmp_path).add({"event": "skip", "step": 3})
    with open(tmp_path / SKIPPED, "a") as f:
        f.write('{"event": "ski')
    again = SkippedSteps(tmp_path)
    for step in (3, 4):
        again.add({"event": "skip", "step": step})
    assert [json.loads(line)["step"] for line in (tmp_path / SKIPPED).read_text().splitlines()] == [3, 4]


def events(output):
    return [json.loads(line) for line in (output / SKIPPED).read_text().splitlines()]


def test_poisonous_steps_are_skipped_recorded_and_change_nothing(train):
    curve, weights, output = train("bad", {6: math.nan, 9: 1e4})
    assert torch.isfinite(weights).all()
    assert [(e["event"], e["step"]) for e in events(output)] == [("skip", 6), ("skip", 9)]
    first, second = (e["samples"] for e in events(output))
    assert first[0]["loss"] == "nan"
    assert second[0]["loss"] > 1000 > second[1]["loss"], "both samples of the batch, with their own losses"
    assert all(math.isfinite(loss) for loss in curve.values())

    resumed, again, _ = train("stopped", {6: math.nan, 9: 1e4}, stop_at=6)
    assert max(resumed) == 7
    after, again, output = train("stopped", {6: math.nan, 9: 1e4})
    assert resumed | after == curve, "stopped at the skipped step itself, and resumed"
    torch.testing.assert_close(again, weights, rtol=0, atol=0)
    assert [e["step"] for e in events(output)] == [6, 9]


def test_after_skips_in_a_row_the_weights_go_back_and_the_plan_goes_on(train):
    bad = dict.fromkeys((5, 6, 7, 8, 9, 10), math.nan)
    curve, weights, output = train("rewound", bad)
    rewinds = [(e["step"], e["to_checkpoint"]) for e in events(output) if e["event"] == "rewind"]
    assert rewinds == [(7, 4), (10, 2)], "to the newest checkpoint; without effect, to the one before it"
    assert sorted(curve) == list(range(1, 15)), "every step once"

    # A kill in between loses nothing: the same skips and rewinds, the same weights.
    train("stopped", bad, stop_at=8)
    _, again, output = train("stopped", bad)
    assert [(e["step"], e["to_checkpoint"]) for e in events(output) if e["event"] == "rewind"] == rewinds
    torch.testing.assert_close(again, weights, rtol=0, atol=0)


def test_when_rewinds_do_not_help_the_error_names_the_samples(train, tmp_path):
    with pytest.raises(FloatingPointError, match=r"3 updates in a row .* after 2 rewinds .*\(loss nan\)") as error:
        train("hopeless", dict.fromkeys(range(5, 14), math.nan))
    skips = [e for e in events(tmp_path / "hopeless") if e["event"] == "skip"]
    assert [e["step"] for e in skips] == list(range(5, 14))
    assert all(e["samples"][0]["key"] in str(error.value) for e in skips[-3:])
    assert [step_of(p) for p in checkpoints(tmp_path / "hopeless" / "checkpoints")] == [2, 4]
