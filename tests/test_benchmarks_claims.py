"""benchmarks/claims.py: the rule of its verdicts, a page that follows its numbers, and going on after a kill."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def claims_page(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import claims_page

    return claims_page


def a_run(name, seed, val, motion, group="architecture"):
    scores = dict.fromkeys(("color", "shape", "motion", "all"), motion)
    identity = {"id": f"{group}-{name}-{seed}", "group": group, "name": name, "seed": seed, "parameters": 5}
    curves = {"step": [1, 2], "cpu_s": [0.1, 0.2], "val": [val + 1, val], "loss": [1.5, 0.5]}
    return identity | curves | {"followed": {"all": scores}, "cpu_ms_step": 100.0}


def result(*runs):
    machine = {"cpu": "some CPU", "cores": 2, "torch": "2", "date": "2026-01-01", "commit": "abc"}
    return {"machine": machine, "settings": "Some settings.", "cpu_seconds": 10.0, "runs": list(runs)}


def test_the_interval_is_students_t(claims_page):
    mean, low, high = claims_page.interval([1.0, 2.0, 3.0])
    assert (mean, round(low, 3), round(high, 3)) == (2.0, -0.484, 4.484)  # 4.303 / sqrt(3) either way
    assert claims_page.interval([1.0])[1:] == (float("-inf"), float("inf"))


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.01, 0.02, 0.0, "confirmed"),
        (-0.02, -0.01, 0.0, "not confirmed"),
        (-0.01, 0.02, 0.0, "cannot be told at this size"),
        (-0.01, 0.02, 0.05, "confirmed"),  # costs nothing: not worse by more than the margin
        (-0.09, -0.06, 0.05, "not confirmed"),
        (-0.06, 0.02, 0.05, "cannot be told at this size"),
        (0.0, 0.0, 0.0, "cannot be told at this size"),
        (float("-inf"), float("inf"), 0.0, "cannot be told at this size"),
    ],
)
def test_the_verdict_is_where_the_whole_interval_lies(claims_page, low, high, margin, expected):
    assert claims_page.verdict(low, high, margin) == expected


def test_runs_are_compared_seed_by_seed_and_each_metric_in_its_direction(claims_page):
    spread = (0.3, 0.5, 0.9)  # much more than the difference, which is the same for every seed
    runs = [a_run("LinGen", s, val, 0.8 - s / 10) for s, val in enumerate(spread)]
    runs += [a_run("DiT", s, val + 0.02 + s / 1000, 0.3 - s / 10) for s, val in enumerate(spread)]
    found = {f.claim.metric: f for f in claims_page.findings(result(*runs)) if f.claim.worse == "DiT"}
    assert {metric: f.verdict for metric, f in found.items()} == {"val": "confirmed", "motion": "confirmed"}
    assert found["val"].advantage == pytest.approx(0.021)
    assert found["motion"].advantage == pytest.approx(0.5)
    # A seed that only one of them has is left out.
    assert next(iter(claims_page.findings(result(*runs[:-1])))).seeds == 2


def test_the_page_follows_the_numbers(claims_page):
    runs = [a_run("LinGen", s, 0.4 + s / 1000, 0.8) for s in range(3)] + [
        a_run("no TESA", s, 0.5 + s / 500, 0.8) for s in range(3)
    ]
    page = claims_page.page(result(*runs))
    assert "**TESA helps** (Fig. 11a, 12): **confirmed**. Validation loss: LinGen 0.401, no TESA 0.502" in page
    assert "1 confirmed, 0 not confirmed, 1 cannot be told at this size" in page
    worse = copy.deepcopy(runs)
    for run in worse[3:]:
        run["val"][-1] -= 0.3
    page = claims_page.page(result(*worse))
    assert "**TESA helps** (Fig. 11a, 12): **not confirmed**. Validation loss: LinGen 0.401, no TESA 0.202" in page
    assert "0 confirmed, 1 not confirmed" in page


def test_a_lead_that_grows_is_told_from_one_that_was_there_before(claims_page):
    runs = []
    for s in range(3):
        runs += [a_run("LinGen", s, 0.4, 0.5), a_run("DiT", s, 0.5, 0.5)]
        for name, val in (("LinGen", 0.35), ("DiT", 0.45 + s / 1000)):
            after = a_run(f"{name}, larger", s, val, 0.5, "adaptation") | {"after": f"architecture-{name}-{s}"}
            runs.append(after | {"start": {"val": val + 0.2, "followed": {"motion": 0.4}}})
    found = {f.claim.metric: f for f in claims_page.findings(result(*runs)) if f.claim.group == "adaptation"}
    assert found["val"].verdict == "confirmed"
    assert (found["gain"].verdict, round(found["gain"].advantage, 3)) == ("cannot be told at this size", 0.001)


def test_the_committed_page_is_that_of_the_committed_numbers(claims_page):
    path = BENCHMARKS / "results" / "claims.json"
    if not path.is_file():
        pytest.skip("no result of benchmarks/claims.py yet")
    page = (ROOT / "docs" / "claims.md").read_text()
    assert page == claims_page.page(json.loads(path.read_text())), "run python benchmarks/claims.py --write-docs"


def test_a_budget_pays_for_more_steps_when_steps_are_cheap(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from claims_runs import GROUPS, plan_steps, runs_of

    kinds = {run.cost_key for group in GROUPS for run in runs_of(group, 0, {})}
    slow, fast = (dict.fromkeys(kinds, cost) for cost in (0.2, 0.1))
    assert plan_steps(3400, fast, 48)["architecture"] > 1.9 * plan_steps(3400, slow, 48)["architecture"]
    assert set(plan_steps(10, slow, 48).values()) == {4}
    cheap = slow | {run.cost_key: 0.05 for run in runs_of("architecture", 0, {}) if run.name == "DiT"}
    assert [(r.name, r.scale) for r in runs_of("architecture", 0, cheap)][7:] == [("DiT, equal time", 4.0)]


@pytest.mark.slow
def test_a_killed_call_loses_the_run_in_progress_and_no_other(tmp_path):
    output, done = tmp_path / "out", tmp_path / "out" / "runs" / "architecture-lingen-0.json"
    command = [sys.executable, BENCHMARKS / "claims.py", "--output", output, "--result", tmp_path / "claims.json"]
    command += ["--groups", "adaptation", "--seeds", "0", "--steps", "2", "--rounds", "0", "--videos", "3"]
    command += ["--scenes", "48", "--clips", "none", "--docs", tmp_path, "--write-docs"]
    first = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    try:
        while not done.is_file():
            assert first.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    before = done.stat().st_mtime_ns

    second = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "architecture-lingen-0:" not in second.stdout
    assert "architecture-dit-0: 2 steps" in second.stdout
    assert done.stat().st_mtime_ns == before

    written = json.loads((tmp_path / "claims.json").read_text())
    names = [(run["group"], run["name"]) for run in written["runs"]]
    assert names[:2] == [("architecture", "LinGen"), ("architecture", "DiT")]
    larger = next(run for run in written["runs"] if run["name"] == "LinGen, larger")
    assert larger["after"] == "architecture-lingen-0"
    assert larger["start"]["val"] > 0
    assert larger["start"]["followed"]["prompts"] == larger["followed"]["all"]["prompts"] == 3
    page = (tmp_path / "claims.md").read_text()
    assert "0 confirmed, 0 not confirmed" in page  # one seed tells nothing
    assert (tmp_path / "claims_adaptation.svg").is_file()

    other = subprocess.run([*map(str, command), "--videos", "6"], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert f"error: --videos: {output} was planned with 3; choose another folder" in other.stderr
