"""Goodput over restarts, the end of a run, and what a finished stage changed."""

import json

import pytest

from pipelines import tracking
from pipelines.training import reporting


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still until it is moved: clock.now."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(reporting.time, "time", lambda: Clock.now)
    return Clock


def test_goodput_counts_every_step_once_over_restarts_and_the_time_between_them(tmp_path, clock, store):
    first = reporting.first_start(tmp_path / "t")

    def start(steps, first_s=1.0):
        run = tracking.Run(tmp_path / "t", "exp", "stage", uri=store)
        report = reporting.Report(run, reporting.first_start(tmp_path / "t"))
        for step in steps:
            clock.now += 20
            report(
                step, {"loss": 1.0, "step_s": first_s if step == 10 else 1.0, "skipped_steps": 2 if step == 30 else 0}
            )
            report(step + 1, {"val/loss": 1.0})
        found = {s: m["goodput_pct"] for s, m in run.logged() if "goodput_pct" in m}
        run.close()
        return found

    assert start([10, 20]) == {10: 50.0, 20: 50.0}
    clock.now += 60  # away
    assert reporting.first_start(tmp_path / "t") == first
    # 10 and 20 are done again and are no new points; 28 steps of 30 counted (two were skipped).
    again = start([10, 20, 30], first_s=3.0)
    assert again == {10: 50.0, 20: 50.0, 30: pytest.approx(100 * 28 / 160)}


def test_what_a_stage_changed_is_told_from_its_manifest(tmp_path):
    (tmp_path / "tracking").mkdir()
    lines = [{"step": 0, "metrics": {"val/loss": 2.0}}]
    lines += [{"step": s, "metrics": {"loss": 2.0 - s / 40, "step_s": 1.0}} for s in range(1, 41)]
    lines[-1]["metrics"]["val/loss"] = 1.25
    (tmp_path / "tracking" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss = reporting.first_and_last(tmp_path)
    assert loss == {"loss": [1.9375, 1.0375], "val/loss": [2.0, 1.25]}


@pytest.mark.parametrize(("finished", "status"), [(True, "FINISHED"), (False, "KILLED"), (None, "FAILED")])
def test_a_run_ends_as_its_training_did(process_group, tmp_path, store, finished, status):
    def train(run):
        run.metrics(1, {"loss": 1.0})
        if finished is None:
            raise ArithmeticError("out of numbers")
        return finished

    def trained():
        return reporting.train_tracked(train, tmp_path / "t", {"experiment": "exp", "name": "stage", "uri": store})

    if finished is None:
        with pytest.raises(ArithmeticError, match="out of numbers"):
            trained()
    else:
        assert trained() is finished
    state = json.loads((tmp_path / "t" / "run.json").read_text())
    assert (state["ended"], state["seen"], state["lines_sent"]) == (status, status, 1)
