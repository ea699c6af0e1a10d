"""The workflow's decisions on real folders; the jobs themselves are replaced by small scripts."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.curate.ledger import SCHEMA
from lingen.text.open_clip import RANDOM_WEIGHTS_SAID
from pipelines.recipes import RECIPES
from pipelines.workflow import StepFailed, Workflow, keys, run

JOB = """
import os
import signal
import sys
import time
from pathlib import Path
from lingen.io.manifest import OutputFolder
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = Path(flags["--output"])
out.parent.mkdir(parents=True, exist_ok=True)
with open(out.parent / "calls.txt", "a") as f:
    f.write(Path(__file__).stem + "\\n")
if (Path(__file__).parent / "fail").exists() and "encode" in __file__:
    sys.exit(3)
if (Path(__file__).parent / "kill").exists() and "encode" in __file__:
    os.kill(os.getpid(), signal.SIGKILL)
if (Path(__file__).parent / "slow").exists() and "encode" in __file__:
    time.sleep(60)
while (Path(__file__).parent / "side_by_side").exists() and out.name == "latents_96p":
    if (out.parent / "runs" / "calls.txt").exists():
        break
    time.sleep(0.05)
with open(out.parent / "said.txt", "a") as f:
    f.write(f"{Path(__file__).stem} {os.environ.get('LINGEN_RANDOM_WEIGHTS_SAID', '')}\\n")
if out.suffix:
    out.write_text("video")
else:
    config = {k: v for k, v in flags.items() if k != "--output"}
    folder = OutputFolder.open(out, Path(__file__).stem, config, {}, overwrite="--overwrite" in sys.argv)
    extra = Path(os.environ.get("EXTRA", Path(__file__).with_suffix("")))
    for path in extra.iterdir() if extra.is_dir() else ():
        (out / path.name).write_bytes(path.read_bytes())
    train = {"positions": {"before": None, "after": [1, 8, 8]}, "loss": {"loss": [2.0, 1.5]}, "steps": 30}
    folder.publish(train if "train.py" in __file__ else {})
"""


EVALUATE = """
import json
import os
import sys
import tempfile
from pathlib import Path
checkpoints = sys.argv[sys.argv.index("--checkpoints") + 1 :]
models = [Path(path).name for path in checkpoints[: next(i for i, w in enumerate(checkpoints) if w.startswith("--"))]]
order = ["demo_t2i_64p", "demo_t2v_64p_1s", "demo_t2v_96p_1s", "demo_t2v_96p_2s", "demo_t2v_96p_4s", "demo_tune_96p_4s"]
scores = {name: {"trained": {"color": order.index(name) / 10, "prompts": 3}} for name in models}
extra = Path(tempfile.mkdtemp())
os.environ["EXTRA"] = str(extra)  # from where the rest takes it
(extra / "evaluation.json").write_text(json.dumps({"stages": scores, "chance": {}}))
(extra / "sheet.png").write_bytes(b"png")
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch, store):
    """A checkout whose jobs only note that they were called."""
    folder = tmp_path / "checkout" / "jobs"
    folder.mkdir(parents=True)
    for name in ("demo_clips", "curate", "train_tae", "encode", "train", "generate", "evaluate"):
        (folder / f"{name}.py").write_text(JOB)
    monkeypatch.setattr(run, "ROOT", folder.parent)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")  # they need no Ray
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return folder


def calls(out: Path) -> list[str]:
    paths = [
        path for path in (out / "calls.txt", *(out / f / "calls.txt" for f in ("runs", "scores"))) if path.is_file()
    ]
    found = [line.strip() for path in paths for line in path.open()]
    for path in paths:
        path.unlink()
    return found


ALL = [
    "demo_clips",
    "curate",
    "train_tae",
    "encode",
    "encode",
    "generate",
    "evaluate",
    *["train"] * 6,
    *["evaluate"] * 5,
]


def test_all_run_once_then_nothing_then_only_what_follows_a_change(tmp_path, jobs, monkeypatch):
    out = tmp_path / "out"
    Workflow("demo", out).run()
    assert sorted(calls(out)) == sorted(ALL)
    assert [o.state for o in Workflow("demo", out).run()] == ["skipped"] * len(ALL)
    assert calls(out) == []
    monkeypatch.chdir(tmp_path)
    assert {Workflow("demo", Path("out")).state(step) for step in Workflow("demo", Path("out")).steps} == {"done"}
    (out / "latents_96p" / "manifest.json").unlink()
    Workflow("demo", out).run()
    assert calls(out) == ["encode"], "its inputs and flags are what they were, so is what follows"
    other = tmp_path / "mine.csv"
    other.write_text("uri\n")
    Workflow("demo", out, clips=str(other)).run()
    # The stand-in jobs' keys are their flags: encode comes out as it was, so training need not run again. But tuning
    # reads curation's list of clips.
    assert calls(out) == ["curate", "train_tae", "encode", "encode", "train"]


def test_the_larger_clips_are_encoded_beside_the_first_training(tmp_path, jobs):
    (jobs / "side_by_side").touch()  # this encoding does not end before a stage has begun
    assert {o.state for o in Workflow("demo", tmp_path / "out").run()} == {"done"}


def test_one_job_at_a_time_where_the_user_wants_it(tmp_path, jobs, monkeypatch):
    limits = []
    monkeypatch.setattr(run.Scheduler, "run", lambda scheduler, steps: limits.append(scheduler._limit))
    with pytest.raises(KeyError):
        Workflow("demo", tmp_path / "out", jobs=1).run()
    assert limits == [1]


def changed_recipe(**changes):
    """The demo with other training settings of its second stage."""
    demo = RECIPES["demo"]
    stages = list(demo.stages)
    stages[1] = dataclasses.replace(stages[1], fit=dataclasses.replace(stages[1].fit, **changes))
    return dataclasses.replace(demo, stages=tuple(stages))


def test_a_changed_setting_of_a_stage_makes_it_and_what_follows_stale_and_explain_says_why(tmp_path, jobs, monkeypatch):
    out = tmp_path / "out"
    Workflow("demo", out).run()
    calls(out)
    lr = RECIPES["demo"].stages[1].fit.lr
    monkeypatch.setitem(RECIPES, "demo", changed_recipe(lr=0.5))
    changed = Workflow("demo", out)
    stale = [name for name, state in changed.states().items() if state == "stale"]
    assert stale[:2] == ["train demo_t2v_64p_1s", "train demo_t2v_96p_1s"]
    assert {"generate", "evaluate", "evaluate demo_t2v_64p_1s"} < set(stale)
    assert not {"curate", "encode 96p", "train demo_t2i_64p"} & set(stale)
    why = f"train demo_t2v_64p_1s will run again: the recipe's fit.lr was {lr} and is 0.5"
    assert changed.explain(changed.find("train_demo_t2v_64p_1s")) == f"{why}."
    assert changed.explain(changed.find("train demo_t2v_96p_1s")) == (
        f"train demo_t2v_96p_1s will run again: 'train demo_t2v_64p_1s', which it reads, is to run first ({why})."
    )
    assert changed.explain(changed.find("Encode 96p")).startswith("encode 96p is done: ")
    changed.run()
    # The stand-in jobs' keys are their flags: this stage comes out as it was, and what follows need not run again.
    assert calls(out) == ["train"]
    monkeypatch.setitem(RECIPES, "demo", changed_recipe(lr=0.5, checkpoint_every=77))
    assert set(Workflow("demo", out).states().values()) == {"done"}, "the weights do not depend on it"


def test_a_step_is_made_again_with_all_that_reads_from_it(tmp_path, jobs):
    out = tmp_path / "out"
    Workflow("demo", out).run()
    calls(out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/manifest.json")}
    (out / "tae" / "notes.txt").write_text("mine")
    again = Workflow("demo", out)
    forgotten = again.forget(again.find("train TAE"))
    assert [step.name for step in forgotten] == [step.name for step in again.steps[2:]]
    again = Workflow("demo", out)
    assert again.explain(again.find("train TAE")) == "train TAE will run again: you asked for it (rerun)."
    again.run()
    assert sorted(calls(out)) == sorted(ALL[2:])
    changed = {path.parent.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns}
    assert changed == {"tae", "latents_64p", "latents_96p", "evaluation"}
    (aside,) = out.glob("tae.replaced-*")
    assert (aside / "notes.txt").read_text() == "mine"
    assert set(Workflow("demo", out).states().values()) == {"done"}


def test_a_job_whose_code_makes_another_result_is_made_again_from_nothing(tmp_path, jobs, monkeypatch):
    out = tmp_path / "out"
    Workflow("demo", out).run()
    calls(out)
    before = (out / "evaluation" / "manifest.json").stat().st_mtime_ns
    monkeypatch.setitem(keys.VERSIONS, "evaluate", 2)
    Workflow("demo", out).run()
    assert calls(out) == ["evaluate"] * 6
    assert (out / "evaluation" / "manifest.json").stat().st_mtime_ns != before


def test_a_step_that_is_not_there_is_refused_with_the_names(tmp_path):
    with pytest.raises(ValueError, match=r"^step: 'encode' is unknown; the steps are 'clips', 'curate', 'train TAE', "):
        Workflow("demo", tmp_path).find("encode")
    with pytest.raises(ValueError, match=r"^step: name one; the steps are"):
        Workflow("demo", tmp_path).find(None)


def test_two_workflows_in_one_folder_are_refused(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr("lingen.io.folder_lock.FolderLock._held", {})
    out = tmp_path / "out"
    out.mkdir()
    hold = (
        "import fcntl, os, sys, time; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(flush=True)"
    )
    other = subprocess.Popen([sys.executable, "-c", f"{hold}; time.sleep(600)", str(out)], stdout=subprocess.PIPE)
    other.stdout.readline()
    try:
        with pytest.raises(ValueError, match=f"--output: another process is writing {out}"):
            Workflow("demo", out).run()
    finally:
        other.kill()
        other.wait()


def test_a_failed_job_stops_the_rest_and_is_where_the_next_run_starts(tmp_path, jobs):
    out = tmp_path / "out"
    (jobs / "fail").touch()
    with pytest.raises(StepFailed, match="encode 64p ended with exit code 3"):
        Workflow("demo", out).run()
    assert calls(out) == ["demo_clips", "curate", "train_tae", "encode"]
    (jobs / "fail").unlink()
    states = [o.state for o in Workflow("demo", out).run()]
    assert states == ["skipped"] * 3 + ["done"] * (len(ALL) - 3)


def test_a_killed_job_has_a_shells_exit_code(tmp_path, jobs):
    (jobs / "kill").touch()
    with pytest.raises(StepFailed, match="encode 64p was killed by signal 9") as failure:
        Workflow("demo", tmp_path / "out").run()
    assert failure.value.code == 137


def test_sigterm_is_forwarded_and_ends_with_75(tmp_path, jobs):
    out = tmp_path / "out"
    (jobs / "slow").touch()

    def terminate():
        while "encode" not in (out / "calls.txt").read_text() if (out / "calls.txt").exists() else True:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    with pytest.raises(StepFailed, match="encode 64p ended with exit code 75") as failure:
        Workflow("demo", out).run()
    assert failure.value.code == 75


def test_a_persons_files_survive_a_run_with_other_flags(tmp_path, jobs):
    """The workflow adds --overwrite to each job: what it replaces is only what its jobs made."""
    out, clips = tmp_path / "out", tmp_path / "clips.csv"
    Workflow("demo", out).run()
    (out / "curated" / "notes.txt").write_text("mine")
    (out / "latents_64p" / "latents").mkdir()
    (out / "latents_64p" / "latents" / "notes.txt").write_text("mine")
    clips.write_text("uri\na.mp4\n")
    Workflow("demo", out, clips=str(clips)).run()
    (aside,) = out.glob("curated.replaced-*")
    assert (aside / "notes.txt").read_text() == "mine"
    assert not (out / "curated" / "notes.txt").exists()
    assert (out / "latents_64p" / "latents" / "notes.txt").exists(), "its key is as it was: nothing was to be replaced"


def test_a_persons_video_of_the_same_name_is_moved_aside(tmp_path, jobs):
    out = tmp_path / "out"
    out.mkdir()
    (out / "sample.mp4").write_text("mine")
    Workflow("demo", out).run()
    (aside,) = out.glob("sample.mp4.replaced-*")
    assert (aside.read_text(), (out / "sample.mp4").read_text()) == ("mine", "video")
    (jobs / "fail").touch()
    clips = tmp_path / "clips.csv"
    clips.write_text("uri\n")
    Workflow("demo", out, quality=str(clips)).run()
    assert list(out.glob("sample.mp4.replaced-*")) == [aside], "its own is replaced without a copy"


@pytest.mark.parametrize("content", ["[1]", "{", '{"name": {"mine": 1}}'])
def test_a_persons_pipeline_json_is_refused(tmp_path, content):
    (tmp_path / "pipeline.json").write_text(content)
    with pytest.raises(ValueError, match=r"--output: .*pipeline\.json is not from this workflow"):
        Workflow("demo", tmp_path)


def test_changed_clips_rerun_curation(tmp_path, jobs):
    out, clips = tmp_path / "out", tmp_path / "clips.csv"
    clips.write_text("uri\na.mp4\n")
    Workflow("demo", out, clips=str(clips)).run()
    assert Workflow("demo", out, clips=str(clips)).state(Workflow("demo", out, clips=str(clips)).steps[0]) == "done"
    clips.write_text("uri\na.mp4\nb.mp4\n")
    again = Workflow("demo", out, clips=str(clips))
    assert again.state(again.steps[0]) == "stale"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"recipe": "lunch"}, "--recipe: lunch"),
        ({"recipe": "paper"}, "--clips: recipe paper needs"),
        ({"recipe": "demo", "clips": "/nowhere"}, "--clips: /nowhere does not exist"),
    ],
)
def test_bad_configuration_is_named_before_any_work(tmp_path, arguments, named):
    with pytest.raises(ValueError, match=named):
        Workflow(output=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_reviewed_list_is_what_tuning_trains_on_and_an_edit_tunes_again(tmp_path, jobs):
    out, reviewed = tmp_path / "out", tmp_path / "reviewed.csv"
    reviewed.write_text("clip_id,keep\na,yes\n")
    Workflow("demo", out).run()
    *others, tuning = (step for step in Workflow("demo", out).steps if step.job == "train")
    assert not [step for step in others if "--quality" in step.flags]
    assert str(out / "curated" / "quality.csv") in tuning.flags
    calls(out)
    Workflow("demo", out, quality=str(reviewed)).run()
    assert sorted(calls(out)) == ["evaluate", "generate", "train"]
    assert {o.state for o in Workflow("demo", out, quality=str(reviewed)).run()} == {"skipped"}
    reviewed.write_text("clip_id,keep\na,no\n")
    Workflow("demo", out, quality=str(reviewed)).run()
    assert calls(out) == ["train"]


def test_flags_of_a_job_are_in_its_command_and_key_and_change_nothing_else(tmp_path, jobs):
    out = tmp_path / "out"
    Workflow("demo", out).run()
    calls(out)
    flags = {"generate": ("--prompt", "a cat")}
    changed = Workflow("demo", out, flags=flags)
    (step,) = (step for step in changed.steps if changed.state(step) != "done")
    (plain,) = (step for step in Workflow("demo", out).steps if step.job == "generate")
    assert step == dataclasses.replace(plain, flags=(*plain.flags, "--prompt", "a cat"))
    changed.run()
    assert calls(out) == ["generate"]
    assert Workflow("demo", out, flags=flags).state(step) == "done"


@pytest.fixture
def nothing_kept(jobs):
    """nothing_kept(rule, reason, count): a curation of `count` clips that drops them all for this reason."""

    def make(stage, reason, count, kept=0):
        folder = jobs / "curate"
        folder.mkdir()
        row = {"row": 0, "uri": "/clips/a.mp4", "verdict": "drop", "reason": reason, "detail": "", "config_hash": ""}
        row |= {"score": 0.1, "threshold": 0.3} if stage.startswith("min_") else {}
        rows = [row | {"clip_id": str(i), "stage": name} for i in range(count) for name in (stage, "final")]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "ledger.parquet")
        pq.write_table(pa.table({"caption": ["a cat"] * count}), folder / "scores.parquet")
        (folder / "summary.json").write_text(json.dumps({"kept": kept}))

    return make


@pytest.mark.parametrize(
    ("stage", "reason", "named"),
    [
        (
            "license",
            "license_unknown",
            r"for 3 of 3: license_unknown, .*; what helps: .*--curate\.license\.",
        ),
        ("min_motion", "still", r"for 3 of 3: still, .*; what helps: --curate\.filter\.min-motion VALUE"),
        ("caption", "caption_missing", r"for 3 of 3: caption_missing, .*--curate\.caption\.missing keep"),
    ],
)
def test_a_curation_that_keeps_nothing_is_the_end_each_time(tmp_path, jobs, nothing_kept, stage, reason, named):
    nothing_kept(stage, reason, 3)
    for expected in (["demo_clips", "curate"], []):
        with pytest.raises(ValueError, match=f"^--clips: nothing was kept; the main reason, {named}.*report.html$"):
            Workflow("demo", tmp_path / "out").run()
        assert calls(tmp_path / "out") == expected


def test_a_curation_that_keeps_something_goes_on(tmp_path, jobs, nothing_kept):
    nothing_kept("license", "license_unknown", 3, kept=1)
    assert Workflow("demo", tmp_path / "out").run()


def test_only_encoding_says_that_the_texts_weights_are_random(tmp_path, jobs, monkeypatch):
    monkeypatch.delenv(RANDOM_WEIGHTS_SAID, raising=False)
    Workflow("demo", tmp_path / "out").run()
    said = (tmp_path / "out" / "said.txt").read_text().splitlines()
    assert [line for line in said if line.endswith(" ")] == ["encode "], "and only the first of them"


def parent(store):
    """The workflow's own run."""
    client = mlflow.MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("lingen-demo").experiment_id])
    (run,) = (run for run in runs if run.info.run_name == "workflow")
    return run


def test_the_workflows_run_shows_steps_stages_and_how_long_they_took(tmp_path, jobs, store):
    out = tmp_path / "out"
    steps = Workflow("demo", out).steps
    Workflow("demo", out).run()
    run = parent(store)
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith(f"Recipe demo in {out}, clips: made by the recipe.")
    assert [line.split("|")[1].strip() for line in note.splitlines() if line.startswith("| ")] == [
        *("step", "---", *(step.name for step in steps)),
        *("stage", "---", *(step.output.name for step in steps if step.job == "train")),
    ]
    assert note.count("2.000 -> 1.500") == sum(step.job == "train" for step in steps)
    seconds = {name for name in run.data.metrics if name.startswith("seconds/")}
    assert seconds == {f"seconds/{step.name.replace(' ', '_')}" for step in steps}
    assert all(run.data.metrics[name] > 0 for name in seconds)
    assert (run.data.tags["recipe"], run.info.status) == ("demo", "FINISHED")
    artifacts = {a.path for a in mlflow.MlflowClient(store).list_artifacts(run.info.run_id)}
    assert artifacts == {"overview.md", "sample.mp4"}


def test_a_resumed_workflow_shows_what_was_done_before_in_the_same_run(tmp_path, jobs, store):
    out = tmp_path / "out"
    (jobs / "fail").touch()
    with pytest.raises(StepFailed):
        Workflow("demo", out).run()
    assert "stage" not in parent(store).data.tags["mlflow.note.content"], "no stage was reached"
    (jobs / "fail").unlink()
    Workflow("demo", out).run()
    note = parent(store).data.tags["mlflow.note.content"]
    assert "| curate | done before |" in note
    assert note.count("none -> 1x8x8") == sum(step.job == "train" for step in Workflow("demo", out).steps)


def test_scores_and_the_sheet_of_an_evaluation_are_in_the_workflows_run(tmp_path, jobs, store):
    stages = [step.output.name for step in Workflow("demo", tmp_path).steps if step.job == "train"]
    (jobs / "evaluate.py").write_text(EVALUATE + JOB)
    Workflow("demo", tmp_path / "out").run()
    run, client = parent(store), mlflow.MlflowClient(store)
    followed = client.get_metric_history(run.info.run_id, "followed/trained/color")
    assert sorted((m.step, m.value) for m in followed) == [(i + 1, i / 10) for i in range(1, len(stages))]
    rows = [f"| {stage} | 3 trained | {i * 10}% |" for i, stage in enumerate(stages) if i]
    note = run.data.tags["mlflow.note.content"]
    assert [line for line in note.splitlines() if "trained" in line] == rows
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"overview.md", "sample.mp4", "evaluation.json", "sheet.png"}


def test_a_finished_workflow_sends_what_mlflow_missed(tmp_path, jobs, store, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(run.Run, "wait_for_id", lambda run: None)
    monkeypatch.setattr("pipelines.tracking.sender.Sender.close", lambda sender, timeout_s: sender._closed.set())
    Workflow("demo", out).run()
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert {o.state for o in Workflow("demo", out).run()} == {"skipped"}
    assert "| generate |" in parent(store).data.tags["mlflow.note.content"]


def test_every_stage_of_the_paper_starts_from_the_one_before_and_tuning_from_its_own_length():
    steps = Workflow("paper", Path("out"), clips="s3://bucket/clips.csv").steps
    trained = {s.output.name: s for s in steps if s.job == "train"}
    starts = {
        name: Path(step.flags[step.flags.index("--init") + 1]).name
        for name, step in trained.items()
        if "--init" in step.flags
    }
    assert starts == {
        "t2v_256p_17s": "t2i_256p",
        "t2v_512p_17s": "t2v_256p_17s",
        "t2v_512p_34s": "t2v_512p_17s",
        "t2v_512p_68s": "t2v_512p_34s",
        "tune_512p_17s": "t2v_512p_17s",
        "tune_512p_68s": "t2v_512p_68s",
    }
