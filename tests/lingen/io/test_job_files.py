"""What each job writes: everything else in a folder survives whatever is done to the job's own files."""

import os

import pytest

from lingen.io import job_files
from lingen.io.job_files import FILES, WORKFLOW_FILES, foreign_files, move_aside, remove_files


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def found(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())


OURS = {
    "demo_clips": ["config.json", "manifest.csv", "scenes/0000.mp4", "scenes/.0001.jpg", "bad/dark.mp4"],
    "curate": ["clips.parquet", "quality.csv", ".quality.csv.0a1b2c3d", "tracking/run.json", "tracking/.run.json.1f"],
    "encode": [
        "latents/video_96x96_17f/000000.tar",
        "latents/video_96x96_17f/.000001.tar.0a1b2c3d",
        "text/lingen-tiny/video_96x96_17f/index.parquet",
        "parts/latents/video_96x96_17f/000001.json",
        "parts/text/lingen-tiny/video_96x96_17f/000001.in_hand",
        "tae/tae.json",
        "errors.parquet",
    ],
    "evaluate": ["evaluation.json", "answers.npz", "sheet.png", "tracking/run.json"],
    "train_tae": [
        "pixels/0c-0-3000_w0001.npy",
        "pixels/.0c-0-3000_w0001.npy",
        "tae.safetensors",
        "ray/train_tae-1f/x/y",
    ],
    "train": [
        "checkpoints/step_00000100/__0_0.distcp",
        "checkpoints/step_00000100/.metadata",
        "checkpoints/.step_00000200.part/meta.json",
        "checkpoints/damaged_step_00000100/__1_0.distcp",
        "model/tae/tae.safetensors",
        "tracking/samples/video_00000100_0.mp4",
        "stalled/rank0.json",
        "stop",
    ],
}
FOREIGN = {
    "demo_clips": ["videos/holiday.mp4", "bad/me.mp4"],
    "curate": ["notes.txt", "quality_reviewed.csv", "tracking/run.json.bak", "clips.parquet/notes", ".git/config"],
    "encode": [
        "latents/000000.tar",
        "latents/a/b/000000.tar",
        "latents/a/best.tar",
        "tae/weights.pt",
        "parts/mine.json",
    ],
    "evaluate": ["sheet2.png", "videos/a.mp4"],
    "train_tae": ["pixels/me.png", "ray/mine", "checkpoint.pt"],
    "train": [
        "checkpoints/step_00000100_best/__0_0.distcp",
        "checkpoints/step_00000100/eval.json",
        "model/onnx/model.onnx",
        "stop/why.txt",
        "next/config.json",
    ],
}


@pytest.mark.parametrize("job", FILES)
def test_a_jobs_files_are_known_and_others_are_not(tmp_path, job):
    fill(tmp_path, *OURS[job])
    assert list(foreign_files(tmp_path, FILES[job])) == []
    for name in FOREIGN[job]:
        other = tmp_path / "other" / name.replace("/", "_")
        fill(other, name)
        assert list(foreign_files(other, FILES[job])) == [name]


@pytest.mark.parametrize("job", FILES)
def test_only_a_jobs_files_are_removed_and_no_folder_with_anything_else(tmp_path, job):
    mixed = [name for name in FOREIGN[job] if not name.startswith(("clips.parquet/", "stop/"))]
    fill(tmp_path, "manifest.json", *OURS[job], *mixed)
    remove_files(tmp_path, FILES[job], keep=["config.json"])
    assert found(tmp_path) == sorted([*mixed, *(["config.json"] if "config.json" in OURS[job] else [])])
    assert not any(p.is_dir() and not any(p.iterdir()) for p in tmp_path.rglob("*"))


def test_links_are_removed_and_not_followed(tmp_path):
    mine = tmp_path / "mine"
    fill(mine, "metrics.jsonl", "latents/a/000000.tar")
    out = tmp_path / "out"
    fill(out, "errors.parquet")
    (out / "tracking").mkdir()
    (out / "tracking" / "metrics.jsonl").symlink_to(mine / "metrics.jsonl")
    (out / "latents").symlink_to(mine / "latents")
    assert list(foreign_files(out, FILES["encode"])) == ["latents"], "no job of ours makes it a link"
    remove_files(out, FILES["encode"])
    assert found(out) == ["latents"]
    remove_files(out, ("latents",))
    assert found(out) == []
    assert found(mine) == ["latents/a/000000.tar", "metrics.jsonl"]


def test_a_linked_folder_itself_is_not_followed(tmp_path):
    fill(tmp_path / "mine", "errors.parquet")
    (tmp_path / "out").symlink_to(tmp_path / "mine")
    remove_files(tmp_path / "out", FILES["encode"])
    assert found(tmp_path / "mine") == ["errors.parquet"]


def test_a_kill_in_the_middle_leaves_no_folder_that_seems_finished(tmp_path, monkeypatch):
    fill(tmp_path, "manifest.json", "config.json", *OURS["encode"])
    unlink, left = os.unlink, iter(range(2))

    def killed(*arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        unlink(*arguments, **options)

    monkeypatch.setattr(job_files.os, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_files(tmp_path, FILES["encode"])
    assert not (tmp_path / "manifest.json").exists()
    assert (tmp_path / "config.json").exists()


def test_what_cannot_be_looked_into_is_an_error_not_nothing(tmp_path, monkeypatch):
    fill(tmp_path, "latents/a/000000.tar")
    monkeypatch.setattr(job_files.os, "scandir", lambda fd: (_ for _ in ()).throw(PermissionError(13, "no", "latents")))
    for look in (lambda: list(foreign_files(tmp_path, FILES["encode"])), lambda: remove_files(tmp_path, ("*",))):
        with pytest.raises(PermissionError):
            look()


def test_some_folders_are_skipped(tmp_path):
    fill(tmp_path, "pipeline.json", "mlartifacts/lingen-demo/a/b/c.txt", "runs/one/notes", "runs/two/notes", "mine")
    assert sorted(foreign_files(tmp_path, WORKFLOW_FILES, skip=["runs/one"])) == ["mine", "runs/two/notes"]


def test_moved_aside_under_a_new_name_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(job_files.time, "strftime", lambda form: "20260101-120000")
    names = []
    for content in ("a", "b", "c"):
        fill(tmp_path, "out/notes")
        (tmp_path / "out" / "notes").write_text(content)
        names.append(move_aside(tmp_path / "out"))
    assert [p.name for p in names] == [f"out.replaced-20260101-120000{end}" for end in ("", "-2", "-3")]
    assert [(p / "notes").read_text() for p in names] == ["a", "b", "c"]
    assert not (tmp_path / "out").exists()


def test_the_working_folder_is_not_moved_away(tmp_path, monkeypatch):
    fill(tmp_path, "out/inside/notes")
    monkeypatch.chdir(tmp_path / "out" / "inside")
    for path in (tmp_path / "out", tmp_path / "out" / "inside"):
        with pytest.raises(ValueError, match="change to another folder first"):
            move_aside(path)
    assert (tmp_path / "out" / "inside" / "notes").exists()
