"""make clean: a workflow's folder goes whole or not at all, whatever OUT is."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lingen.io.manifest import OutputFolder, file_digest, write_json
from pipelines.clean import clean

ROOT = Path(__file__).parents[2]


@pytest.fixture
def made(tmp_path):
    """A workflow's folder, as a demo that was stopped in training leaves it."""
    out = tmp_path / "a b"
    for name, job in (("clips", "demo_clips"), ("curated", "curate"), ("tae", "train_tae"), ("runs/t2i", "train")):
        folder = OutputFolder.open(out / name, job, {}, {})
        write_json(folder.path / "tracking" / "run.json", {})
    (out / "curated" / "quality.csv").write_text("keep\nyes\n")
    digest = file_digest(out / "curated" / "quality.csv")
    OutputFolder.open(out / "curated", "curate", {}, {}).publish({"quality.csv": digest})
    files = ("pipeline.json", "mlflow.db", "mlartifacts/lingen-demo/0f/artifacts/x.html", "tracking/run.json")
    for name in (*files, "curated.store/files/0-1.parquet", "runs/t2i/checkpoints/.step_00000010.part/__0_0.distcp"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("")
    return out


def everything(folder):
    return sorted(folder.rglob("*"))


def test_all_that_the_workflow_made_is_removed(made):
    clean(made)
    assert list(made.parent.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["thesis.tex", "runs/t2i/eval.json", "runs/notes.txt", "clips/videos/mine.mp4", "curated.store/x", "x/y/z"]
)
def test_nothing_is_removed_where_a_person_keeps_something(made, name):
    (made / name).parent.mkdir(parents=True, exist_ok=True)
    (made / name).write_text("mine")
    before = everything(made)
    with pytest.raises(ValueError, match="files that the demo did not write") as error:
        clean(made)
    assert name in str(error.value)
    assert everything(made) == before


def test_a_reviewed_list_is_a_persons(made):
    (made / "curated" / "quality.csv").write_text("keep\nno\n")
    with pytest.raises(ValueError, match=r"curated/quality\.csv, changed since"):
        clean(made)


def test_links_are_not_followed(made, tmp_path):
    other = OutputFolder.open(tmp_path / "other", "curate", {}, {}).path
    (made / "linked").symlink_to(other)
    with pytest.raises(ValueError, match=r"did not write \(linked\)"):
        clean(made)
    (made / "linked").unlink()
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(ValueError, match="is no folder that the demo made"):
        clean(tmp_path / "link")
    assert (made / "pipeline.json").exists()
    assert (other / "config.json").exists()


@pytest.mark.parametrize("folder", ["/", "home", "empty"])
def test_other_folders_are_refused(tmp_path, folder):
    path = tmp_path / folder  # "/" stays "/"
    path.mkdir(exist_ok=True)
    if folder == "home":
        (path / "letter").touch()
    with pytest.raises(ValueError, match="is no folder that the demo made"):
        clean(path)
    assert path.exists()


def test_a_kill_in_the_middle_is_finished_by_the_next_call(made, monkeypatch):
    unlink = os.unlink
    for count in range(1, 20):
        left = iter(range(count))

        def killed(*arguments, left=left, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            unlink(*arguments, **options)

        copy = shutil.copytree(made, made.parent / f"{count}")
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", killed)
            with contextlib.suppress(KeyboardInterrupt):
                clean(copy)
        if copy.exists():
            clean(copy)
        assert not copy.exists()


def command(*words, **environment):
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)
    return done.returncode, done.stdout, done.stderr


def test_make_passes_any_name_of_a_folder(made, tmp_path):
    python = f"BIN={Path(sys.executable).parent}"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    odd = made.rename(tmp_path / "a b'\"; touch pwned; #$$(x)")
    code, out, err = command("make", "--no-print-directory", "clean", python, f"OUT={str(odd).replace('$', '$$')}")
    assert (code, out) == (0, f"removed {odd}\n"), err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    assert not (ROOT / "pwned").exists()
    for folder in (tmp_path, "/"):
        code, out, err = command("make", "--no-print-directory", "clean", python, f"OUT={folder}")
        assert code == 2
        assert err.startswith(f"error: OUT: {folder} is no folder that the demo made\n")
    assert command("make", "--no-print-directory", "clean", python, "OUT=")[0] == 2
    assert command("make", "--no-print-directory", "clean", python, f"OUT={tmp_path / 'absent'}")[:2] == (0, "")


def test_the_demo_gets_its_folders_through_the_environment():
    code, out, err = command("make", "--no-print-directory", "-n", "demo", "OUT=a b", "CLIPS=c d")
    assert code == 0, err
    assert 'run --recipe demo --output "$OUT" --clips "$CLIPS"' in out
    assert "a b" not in out
