"""What `pipeline.py status` knows of a workflow that runs elsewhere."""

import json
import os

import pytest

from lingen.io.manifest import OutputFolder
from pipelines.workflow import Workflow
from pipelines.workflow.running import FILE, RunningFile, counted, running_steps
from pipelines.workflow.status import as_json, statuses


@pytest.fixture
def workflow(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workflow("demo", tmp_path / "out")


def status_of(workflow, name):
    return next(status for status in statuses(workflow) if status.step == name)


def stage(workflow, lines=()):
    """The unfinished folder of a stage, whose metrics have these steps."""
    step = workflow.find("train demo_t2v_64p_1s")
    OutputFolder.open(step.output, "train", {"fit": {"steps": 2000}}, {})
    (step.output / "tracking").mkdir()
    text = "".join(json.dumps({"step": n, "metrics": {}}) + "\n" for n in lines)
    (step.output / "tracking" / "metrics.jsonl").write_text(text + '{"step": 9')
    return step


def test_progress_of_a_stage_is_in_its_metrics(workflow):
    stage(workflow, [5, 120])
    found = status_of(workflow, "train demo_t2v_64p_1s")
    assert (found.state, found.done, found.total, found.short) == ("started", 120, 2000, "step 120 of 2000")


def test_progress_of_other_jobs_is_their_own_line(workflow):
    line = "latents: 12/50 segments, 1.5 segments/s, 8s elapsed"
    workflow.output.mkdir()
    with RunningFile(workflow.output) as running:
        running.write({"encode 64p": line, "train demo_t2i_64p": ""})
        found = status_of(workflow, "encode 64p")
        assert (found.state, found.done, found.total, found.short) == ("running", 12, 50, "segments 12 of 50")
        assert found.progress == line
        assert status_of(workflow, "train demo_t2i_64p").state == "running"
        assert status_of(workflow, "curate").state == "missing"
    assert status_of(workflow, "encode 64p").state == "missing"


def test_a_workflow_that_was_killed_does_not_run(workflow, monkeypatch):
    workflow.output.mkdir()
    RunningFile(workflow.output).write({"curate": ""})
    assert running_steps(workflow.output) == {"curate": ""}

    def gone(pid, number):
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", gone)
    assert running_steps(workflow.output) == {}
    (workflow.output / FILE).write_text("[1]")
    assert running_steps(workflow.output) == {}


def test_a_line_without_a_total_counts_nothing():
    assert counted("latents: 12 segments, 3 segments/s") is None
    assert counted("evaluate: 3/48 videos") == (3, 48, "videos")


@pytest.mark.parametrize(
    ("store", "page"),
    [
        ("https://me:secret@mlflow.example/x/", "https://***@mlflow.example/x/#/runs/abc"),
        (None, "http://127.0.0.1:5000/#/runs/abc"),
    ],
)
def test_the_page_of_a_steps_run(workflow, monkeypatch, store, page):
    if store:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    step = stage(workflow)
    state = {"experiment": "e", "name": "n", "params": {}, "tags": {}, "run_id": "abc"}
    (step.output / "tracking" / "run.json").write_text(json.dumps(state))
    found = json.loads(as_json(workflow, statuses(workflow)))
    (row,) = (row for row in found["steps"] if row["mlflow"])
    assert (row["step"], row["mlflow"]) == (step.name, page)
    assert found["recipe"] == "demo"
