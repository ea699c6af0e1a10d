"""Goodput over restarts; what a stage is told before it starts."""

import json

import pytest

from lingen.synthetic import write_random_encoding
from pipelines import tracking, training
from pipelines.recipes import find_stage


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still until it is moved: clock.now."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(training.time, "time", lambda: Clock.now)
    return Clock


def test_goodput_counts_every_step_once_over_restarts_and_the_time_between_them(tmp_path, clock):
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = training.first_start(tmp_path / "t")

    def start(steps, first_s=1.0):
        run = tracking.Run(tmp_path / "t", "exp", "stage", uri=store)
        report = training.Report(run, training.first_start(tmp_path / "t"))
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
    assert training.first_start(tmp_path / "t") == first
    # 10 and 20 are done again and are no new points; 28 steps of 30 counted (two were skipped).
    again = start([10, 20, 30], first_s=3.0)
    assert again == {10: 50.0, 20: 50.0, 30: pytest.approx(100 * 28 / 160)}


def test_tuning_needs_a_reviewed_list_that_keeps_something(tmp_path):
    tuning, other = find_stage("demo_tune_96p_4s")[1], find_stage("demo_t2i_64p")[1]
    assert training.reviewed_clips(other, None) is None
    path = tmp_path / "quality.csv"
    for text, named in (
        (None, "is no file"),
        ("a,b\n", "needs the columns"),
        ("clip_id,keep\nx,no\n", "keeps no clip"),
    ):
        if text:
            path.write_text(text)
        with pytest.raises(ValueError, match=f"--quality: .*{named}"):
            training.reviewed_clips(tuning, path)
    with pytest.raises(ValueError, match="--quality: stage demo_tune_96p_4s trains on a reviewed set"):
        training.reviewed_clips(tuning, None)
    path.write_text("clip_id,keep\nx,yes\ny,no\n")
    assert training.reviewed_clips(tuning, path) == ["x"]


def test_a_stage_says_what_it_changed(tmp_path):
    (tmp_path / "tracking").mkdir()
    lines = [{"step": 0, "metrics": {"val/loss": 2.0}}]
    lines += [{"step": s, "metrics": {"loss": 2.0 - s / 40, "step_s": 1.0}} for s in range(1, 41)]
    lines[-1]["metrics"]["val/loss"] = 1.25
    (tmp_path / "tracking" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss = training.first_and_last(tmp_path)
    assert loss == {"loss": [1.9375, 1.0375], "val/loss": [2.0, 1.25]}
    positions = {"after": [4, 6, 7], "before": [2, 4, 5]}
    assert training.changes({"loss": loss, "positions": positions}) == [
        "2x4x5 -> 4x6x7",
        "1.938 -> 1.038",
        "2.000 -> 1.250",
    ]
    first = {"loss": {}, "positions": {"before": None, "after": [2, 4, 5]}}
    assert training.changes(first) == ["none -> 2x4x5", "none", "none"]


def test_a_mixture_that_cannot_be_is_refused_before_any_work(tmp_path):
    shards = write_random_encoding(tmp_path / "shards", {"video_64x64_16f": 4})
    with pytest.raises(ValueError, match=r"image_ratio: .* has no image buckets"):
        training.train(training.TrainConfig(stage="demo_t2v_64p_1s", shards=shards, output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
