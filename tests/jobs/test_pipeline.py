import csv
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import types

import pytest

from jobs.pipeline import PipelineConfig, count_clips, main, next_steps, settings_of
from lingen.io.manifest import OutputFolder
from pipelines.job_flags import JOBS
from pipelines.plan.config import PlanConfig
from pipelines.workflow import ROOT, StepFailed, Workflow


def test_plan_prints_a_command_per_step_and_makes_nothing(tmp_path, capsys):
    main(PipelineConfig(action="plan", output=tmp_path / "out"))
    lines = capsys.readouterr().out.splitlines()
    steps = Workflow("demo", tmp_path / "out", None, None).steps
    assert lines[0::2] == [f"# {step.name}: missing" for step in steps]
    for line, step in zip(lines[1::2], steps, strict=True):
        assert shlex.split(line) == ["python", f"jobs/{step.job}.py", *step.flags]
        assert (ROOT / "jobs" / f"{step.job}.py").is_file()
    assert not (tmp_path / "out").exists()


def test_plan_for_a_card_prints_the_report_before_it_refuses(tmp_path, monkeypatch, capsys):
    def refuse(plans):
        raise ValueError("t2v_512p_68s: its estimated peak is too high")

    monkeypatch.setattr("jobs.pipeline.make_plan", lambda stages, config: [stage.name for stage in stages])
    monkeypatch.setattr("jobs.pipeline.report", lambda plans, price: f"{plans[0]} at {price}")
    monkeypatch.setattr("jobs.pipeline.refuse", refuse)
    with pytest.raises(ValueError, match="estimated peak"):
        main(PipelineConfig(action="plan", recipe="paper", plan=PlanConfig(gpu="h100", price=2.5)))
    assert "t2i_256p at 2.5" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--recipe: papper is unknown"):
        main(PipelineConfig(action="plan", recipe="papper", plan=PlanConfig(gpu="h100")))


def test_status_has_a_row_per_step(tmp_path, capsys):
    main(PipelineConfig(action="status", output=tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "state", "progress", "output", "MLflow"]
    assert len(lines) == 2 + len(Workflow("demo", tmp_path, None, None).steps)
    assert all("missing" in line for line in lines[2:])


def test_status_as_json_and_watched_until_all_is_done(tmp_path, monkeypatch, capsys):
    main(PipelineConfig(action="status", output=tmp_path, json=True))
    found = json.loads(capsys.readouterr().out)
    assert {step["state"] for step in found["steps"]} == {"missing"}
    states = iter(["started", "started", "done"])
    names = [step.name for step in Workflow("demo", tmp_path).steps]
    monkeypatch.setattr(Workflow, "states", lambda workflow: dict.fromkeys(names, next(states)))
    monkeypatch.setattr("jobs.pipeline.WATCH_EVERY", 0)
    main(PipelineConfig(action="status", output=tmp_path, json=True, watch=True))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["steps"][0]["state"] for line in lines] == ["started", "done"], "one line for every change"


def test_explain_prints_one_sentence(tmp_path, capsys):
    main(PipelineConfig(action="explain", step="encode_64p", output=tmp_path))
    assert capsys.readouterr().out == "encode 64p has not run yet.\n"


def test_rerun_forgets_the_step_and_runs(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(Workflow, "run", lambda workflow: ran.append(workflow.jobs) or [])
    monkeypatch.setattr("jobs.pipeline.next_steps", lambda *_: "")
    main(PipelineConfig(action="rerun", step="generate", output=tmp_path, jobs=1))
    assert ran == [1]
    assert capsys.readouterr().out.startswith("made again: generate\n")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"action": "run", "step": "encode"}, "step: run is of all steps; leave out 'encode'"),
        ({"action": "run", "jobs": 0}, "--jobs: need at least one at a time, got 0"),
        ({"action": "plan", "json": True}, "--json: only the action status has it"),
        ({"action": "run", "watch": True}, "--watch: only the action status has it"),
    ],
)
def test_flags_that_an_action_does_not_have_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        PipelineConfig(**settings)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_settings_that_its_flags_are_checked_by(job):
    assert settings_of(job) is not None


def test_a_bad_flag_of_evaluation_is_refused_before_work(tmp_path):
    with pytest.raises(ValueError, match=r"--evaluate\.prompts: must be at least 3"):
        main(PipelineConfig(action="plan", output=tmp_path / "out", flags="--evaluate.prompts 1"))
    with pytest.raises(ValueError, match=r"--demo-clips\.sceens"):
        main(PipelineConfig(action="plan", output=tmp_path / "out", flags="--demo-clips.sceens 1"))


def test_an_unknown_action_is_refused():
    with pytest.raises(ValueError, match="action: 'walk' is unknown; use run, status, plan, explain or rerun"):
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
    assert f"generated video     {tmp_path}/sample.mp4" in printed
    assert "scores prompts" not in printed, "only of one's own clips is less to be expected"


def test_flags_of_jobs_are_in_the_plan(tmp_path, capsys):
    main(PipelineConfig(action="plan", output=tmp_path / "out", flags="--curate.license.assume CC0-1.0"))
    changed = capsys.readouterr().out.splitlines()
    main(PipelineConfig(action="plan", output=tmp_path / "out"))
    plain = capsys.readouterr().out.splitlines()
    assert [new for new, old in zip(changed, plain, strict=True) if new != old] == [
        f"{line} --license.assume CC0-1.0" for line in plain if line.startswith("python jobs/curate.py")
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--curate.license.asume", "CC0-1.0"], "--curate.license.asume"),
        (["--flags=--train.fit.steps many"], "--train.fit.steps"),
        (["--curate.license.assume", "CC BY"], "--curate.license.assume: 'CC BY'"),
        (["--curat.license.assume", "CC0-1.0"], "--curat.license.assume"),
    ],
)
def test_a_bad_flag_of_a_job_is_one_line_before_any_work(tmp_path, arguments, named):
    command = [sys.executable, "jobs/pipeline.py", "run", "--output", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert named in done.stderr
    assert not (tmp_path / "out").exists()


def test_make_hands_flags_on_as_one_text(tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))")
    python.chmod(0o755)
    (tmp_path / ".installed").touch()
    flags = """--curate.license.assume CC0-1.0 --generate.prompt "a 'red' ball; touch pwned *" """
    make = ["make", "--no-print-directory", "demo", f"VENV={tmp_path}", "CLIPS=my clips", f"FLAGS={flags}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("OUT", "CLIPS", "FLAGS")}
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout) == [
        *("jobs/pipeline.py", "run", "--recipe", "demo", "--output", "out/demo"),
        *("--clips", "my clips", f"--flags={flags}"),
    ]
    done = subprocess.run(make[:-2], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout)[-1] == "out/demo"


@pytest.mark.parametrize(("code", "then"), [(2, "its error, above, says what to change"), (1, "to resume")])
def test_only_a_job_that_can_go_on_is_said_to(tmp_path, monkeypatch, capsys, code, then):
    def run(workflow):
        raise StepFailed("encode", code)

    monkeypatch.setattr(Workflow, "run", run)
    with pytest.raises(SystemExit, match=str(code)):
        main(PipelineConfig(action="run", output=tmp_path / "out"))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(then)
    assert ("same command" in last) == (code != 2)


def test_own_clips_are_told_what_to_expect_before_work(tmp_path, monkeypatch, capsys):
    def run(workflow):
        print("work")
        raise StepFailed("curate", 1)

    monkeypatch.setattr(Workflow, "run", run)
    (tmp_path / "clips.csv").write_text("uri,caption\na.mp4,a\n\nb.mp4,b\n")
    with pytest.raises(SystemExit):
        main(PipelineConfig(action="run", output=tmp_path / "out", clips=str(tmp_path / "clips.csv")))
    before = capsys.readouterr().out.partition("work")[0]
    assert before.startswith(
        "With your 2 clips this trains a tiny model for minutes: its videos will not be recognisable"
    )
    assert before.rstrip().endswith("here prompts are not scored.")


def test_clips_are_counted_where_that_takes_no_curation(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.mp4", "sub/b.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert count_clips(str(tmp_path)) == 2
    (tmp_path / "m.jsonl").write_text('{"uri": "a"}\n\n{"uri": "b"}\n')
    assert count_clips(str(tmp_path / "m.jsonl")) == 2
    (tmp_path / "empty.csv").write_text("")
    assert count_clips(str(tmp_path / "empty.csv")) == 0
    (tmp_path / "odd.csv").write_text("uri\n" + "x" * 200_000)
    before = csv.field_size_limit(1000)  # other tests may have raised it
    try:
        assert count_clips(str(tmp_path / "odd.csv")) is None
    finally:
        csv.field_size_limit(before)
    assert count_clips("s3://bucket/clips") is None
    assert count_clips(str(tmp_path / "m.parquet")) is None


def test_the_contact_sheet_is_the_last_thing_named(tmp_path):
    workflow, config = Workflow("demo", tmp_path), PipelineConfig(action="run", output=tmp_path)
    evaluated = workflow.steps[-1].output
    assert "sheet.png" not in next_steps(config, workflow)
    evaluated.mkdir()
    (evaluated / "sheet.png").touch()
    assert next_steps(config, workflow).splitlines()[-1].endswith(str(evaluated / "sheet.png"))
    (tmp_path / "mine").mkdir()
    assert {step.job for step in Workflow("demo", tmp_path, str(tmp_path / "mine")).steps}.isdisjoint(["evaluate"])
