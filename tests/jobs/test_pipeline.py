import dataclasses
import shlex
import types

import pytest

from jobs.pipeline import PipelineConfig, main, next_steps
from lingen.io.manifest import OutputFolder
from pipelines.workflow import ROOT, Workflow


def test_plan_prints_a_command_per_step_and_makes_nothing(tmp_path, capsys):
    main(PipelineConfig(action="plan", output=tmp_path / "out"))
    lines = capsys.readouterr().out.splitlines()
    steps = Workflow("demo", tmp_path / "out", None, None).steps
    assert lines[0::2] == [f"# {step.name}: missing" for step in steps]
    for line, step in zip(lines[1::2], steps, strict=True):
        assert shlex.split(line) == ["python", f"jobs/{step.job}.py", *step.flags]
        assert (ROOT / "jobs" / f"{step.job}.py").is_file()
    assert not (tmp_path / "out").exists()


def test_status_has_a_row_per_step(tmp_path, capsys):
    main(PipelineConfig(action="status", output=tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "state", "output"]
    assert len(lines) == 2 + len(Workflow("demo", tmp_path, None, None).steps)
    assert all("missing" in line for line in lines[2:])


def test_an_unknown_action_is_refused():
    with pytest.raises(ValueError, match="action: 'walk' is unknown; use run, status or plan"):
        PipelineConfig(action="walk")


def test_a_finished_run_shows_what_stages_changed_and_what_comes_next(tmp_path, monkeypatch, capsys):
    outputs = {"positions": {"before": None, "after": [1, 8, 8]}, "loss": {"loss": [2.0, 1.5]}}

    def run(workflow):
        for step in workflow.steps:
            if step.job == "train":
                OutputFolder.open(step.output, "train", {}, {}).publish(outputs)
        return [types.SimpleNamespace(step=step, state="done", seconds=61.0) for step in workflow.steps]

    monkeypatch.setattr(Workflow, "run", run)
    config = PipelineConfig(action="run", output=tmp_path)
    main(config)
    printed = capsys.readouterr().out
    workflow = Workflow("demo", tmp_path, None, None)
    stages = [step.output.name for step in workflow.steps if step.job == "train"]
    rows = {line.split()[0]: line for line in printed.splitlines() if "none -> 1x8x8" in line}
    assert list(rows) == stages
    assert all("2.000 -> 1.500" in row for row in rows.values())
    assert "1m01s" in printed
    assert next_steps(dataclasses.replace(config), workflow) in printed
    assert f"generated video     {workflow.steps[-1].output}" in printed
