"""Checkpoints that retention deletes: only what training wrote, and nothing that a link points to."""

import os

import pytest

from lingen.train import checkpoint
from lingen.train.checkpoint import META, checkpoints, discard


@pytest.fixture
def saved(tmp_path):
    """saved(name, *others): a checkpoint's folder with some more files in it."""

    def make(name, *others):
        folder = tmp_path / name
        folder.mkdir()
        for file in (META, ".metadata", "__0_0.distcp", "__1_0.distcp", *others):
            (folder / file).write_text("{}")
        return folder

    return make


def test_a_checkpoint_is_deleted_whole(saved, tmp_path):
    discard(saved("step_00000001"))
    discard(tmp_path / "step_00000002")  # absent
    assert list(tmp_path.iterdir()) == []


def test_a_persons_files_in_it_are_kept_beside(saved, tmp_path):
    discard(saved("step_00000001", "eval.json"))
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("step_00000001.replaced-")
    assert [p.name for p in aside.iterdir()] == ["eval.json"]
    assert checkpoints(tmp_path) == []


def test_a_link_is_deleted_not_what_it_points_to(saved, tmp_path):
    other = saved("kept_elsewhere")
    (tmp_path / "step_00000001").symlink_to(other)
    discard(tmp_path / "step_00000001")
    assert [p.name for p in tmp_path.iterdir()] == ["kept_elsewhere"]
    assert (other / META).exists()


def test_a_kill_in_the_middle_leaves_nothing_that_counts_as_a_checkpoint(saved, tmp_path, monkeypatch):
    folder = saved("step_00000001")
    monkeypatch.setattr(checkpoint, "remove_files", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        discard(folder)
    assert (folder / ".metadata").exists()
    assert checkpoints(tmp_path) == []


def test_an_error_of_the_disk_does_not_end_training(saved, monkeypatch):
    folder = saved("step_00000001")
    monkeypatch.setattr(os, "unlink", lambda *arguments, **options: (_ for _ in ()).throw(PermissionError(13, "no")))
    discard(folder)
    assert (folder / META).exists()


def test_a_persons_copies_are_not_taken_for_checkpoints(saved, tmp_path):
    first, second = saved("step_00000001"), saved("step_00000002")
    saved("step_00000002_best")
    saved("step_best")
    assert checkpoints(tmp_path) == [first, second]
