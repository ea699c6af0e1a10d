"""The workflow's decisions on real folders; the jobs themselves are replaced by small scripts."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipelines import workflow
from pipelines.workflow import StepFailed, Workflow

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
if out.suffix:
    out.write_text("video")
else:
    config = {k: v for k, v in flags.items() if k != "--output"}
    OutputFolder.open(out, Path(__file__).stem, config, {}, overwrite="--overwrite" in sys.argv).publish({})
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch, store):
    """A checkout whose jobs only note that they were called."""
    folder = tmp_path / "checkout" / "jobs"
    folder.mkdir(parents=True)
    for name in ("demo_clips", "curate", "train_tae", "encode", "train", "generate"):
        (folder / f"{name}.py").write_text(JOB)
    monkeypatch.setattr(workflow, "ROOT", folder.parent)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")  # they need no Ray
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return folder


def calls(out: Path) -> list[str]:
    found = [line for path in (out / "calls.txt", out / "runs" / "calls.txt") if path.is_file() for line in path.open()]
    for path in (out / "calls.txt", out / "runs" / "calls.txt"):
        path.unlink(missing_ok=True)
    return [name.strip() for name in found]


def test_all_run_once_then_nothing_then_only_what_follows_a_change(tmp_path, jobs, monkeypatch):
    out = tmp_path / "out"
    Workflow("demo", out).run()
    assert calls(out) == ["demo_clips", "curate", "train_tae", "encode", "generate", *["train"] * 6]
    assert [o.state for o in Workflow("demo", out).run()] == ["skipped"] * 11
    assert calls(out) == []
    monkeypatch.chdir(tmp_path)
    assert {Workflow("demo", Path("out")).state(step) for step in Workflow("demo", Path("out")).steps} == {"done"}
    (out / "latents" / "manifest.json").unlink()
    Workflow("demo", out).run()
    assert calls(out) == ["encode"], "its inputs and flags are what they were, so is what follows"
    other = tmp_path / "mine.csv"
    other.write_text("uri\n")
    Workflow("demo", out, clips=str(other)).run()
    # The stand-in jobs' keys are their flags: encode comes out as it was, so training need not run again.
    assert calls(out) == ["curate", "train_tae", "encode"]


def test_a_failed_job_stops_the_rest_and_is_where_the_next_run_starts(tmp_path, jobs):
    out = tmp_path / "out"
    (jobs / "fail").touch()
    with pytest.raises(StepFailed, match="encode ended with exit code 3"):
        Workflow("demo", out).run()
    assert calls(out) == ["demo_clips", "curate", "train_tae", "encode"]
    (jobs / "fail").unlink()
    states = [o.state for o in Workflow("demo", out).run()]
    assert states == ["skipped"] * 3 + ["done"] * 8


def test_a_killed_job_has_a_shells_exit_code(tmp_path, jobs):
    (jobs / "kill").touch()
    with pytest.raises(StepFailed, match="encode was killed by signal 9") as failure:
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
    with pytest.raises(StepFailed, match="encode ended with exit code 75") as failure:
        Workflow("demo", out).run()
    assert failure.value.code == 75


def test_a_persons_files_survive_a_run_with_other_flags(tmp_path, jobs):
    """The workflow adds --overwrite to each job: what it replaces is only what its jobs made."""
    out, clips = tmp_path / "out", tmp_path / "clips.csv"
    Workflow("demo", out).run()
    (out / "curated" / "notes.txt").write_text("mine")
    (out / "latents" / "latents").mkdir()
    (out / "latents" / "latents" / "notes.txt").write_text("mine")
    clips.write_text("uri\na.mp4\n")
    Workflow("demo", out, clips=str(clips)).run()
    (aside,) = out.glob("curated.replaced-*")
    assert (aside / "notes.txt").read_text() == "mine"
    assert not (out / "curated" / "notes.txt").exists()
    assert (out / "latents" / "latents" / "notes.txt").exists(), "its key is as it was: nothing was to be replaced"


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
    assert "--quality" not in " ".join(Workflow("demo", out).steps[-3].flags)
    assert str(out / "curated" / "quality.csv") in Workflow("demo", out).steps[-2].flags
    calls(out)
    Workflow("demo", out, quality=str(reviewed)).run()
    assert calls(out) == ["generate", "train"]
    assert {o.state for o in Workflow("demo", out, quality=str(reviewed)).run()} == {"skipped"}
    reviewed.write_text("clip_id,keep\na,no\n")
    Workflow("demo", out, quality=str(reviewed)).run()
    assert calls(out) == ["train"]


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
