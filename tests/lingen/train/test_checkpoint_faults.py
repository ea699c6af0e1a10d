"""Checkpoints that are damaged, of another number of workers, or cannot be written; what is kept, and what is said."""

import logging
import os
import threading

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lingen.io.manifest import read_json, write_json
from lingen.train import checkpoint
from lingen.train.checkpoint import (
    Checkpointer,
    CheckpointFailed,
    Retention,
    checkpoint_path,
    checkpoints,
    discard,
    regular_steps,
    step_of,
)
from lingen.train.ema import EMA

pytestmark = pytest.mark.usefixtures("process_group")

SIZE = 4 * 4 * (300 * 200 + 200)
"""Bytes of weights, EMA and two moments in float32."""


@pytest.fixture
def start(tmp_path):
    """start() -> a Checkpointer of a small model in tmp_path, with one update done."""

    def start(retention=None):
        torch.manual_seed(0)
        model = torch.nn.Linear(300, 200)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model(torch.ones(1, 300)).square().sum().backward()
        optimizer.step()
        return Checkpointer(tmp_path, model, EMA(model, 0.9), optimizer, retention or Retention())

    return start


def save(saver, *steps):
    """Save so many times; the model's bias holds the step."""
    for step in steps:
        saver._model.bias.data.fill_(step)
        saver.save(step, {})
        saver.wait()


def loaded(saver):
    """(step of the newest checkpoint, the bias that was loaded)."""
    return saver.load_newest()["step"], saver._model.bias[0].item()


def damage(folder):
    for path in folder.glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("retention", "steps", "regular", "kept"),
    [
        (Retention(), [1, 2, 3], [1, 2, 3], {2, 3}),
        (Retention(last=1), [1, 2, 3], [1, 2, 3], {3}),
        (Retention(last=1), [1, 2, 3], [1, 2], {2, 3}),
        (Retention(last=1, every=10), [5, 10, 15, 20, 25], [5, 10, 15, 25], {10, 20, 25}),
        (Retention(last=2), [7], [], {7}),
        (Retention(), [], [], set()),
    ],
)
def test_what_is_kept(retention, steps, regular, kept):
    assert retention.keeps(steps, regular) == kept


def test_names_and_steps():
    assert [step_of(checkpoint_path(checkpoint.Path("x"), n)) for n in (0, 7, 10**8)] == [0, 7, 10**8]


def test_regular_ones_are_told_from_those_of_a_notice(start, tmp_path):
    saver = start()
    save(saver, 1)
    saver.save(2, {}, regular=False)
    saver.wait()
    assert regular_steps(tmp_path) == [1]
    assert [step_of(p) for p in checkpoints(tmp_path)] == [1, 2]


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_loaded(start, tmp_path, caplog):
    save(start(), 1, 2)
    damage(tmp_path / "step_00000002")
    with caplog.at_level(logging.WARNING):
        assert loaded(start()) == (1, 1.0)
    assert "step_00000002 cannot be read" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged_step_00000002", "step_00000001"]
    again = start()
    save(again, 2)
    damage(tmp_path / "step_00000002")
    assert loaded(start()) == (1, 1.0), "a name that is taken by an older one is no obstacle"
    damage(tmp_path / "step_00000001")
    assert start().load_newest() is None


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (".metadata", "damaged_step_00000002"),
        ("__0_0.distcp", "damaged_step_00000002"),
        ("meta.json", "step_00000002"),  # without it a folder is no checkpoint
    ],
)
def test_a_pipe_among_its_files_is_damage_and_not_waited_for(start, tmp_path, name, left):
    save(start(), 1, 2)
    (tmp_path / "step_00000002" / name).unlink()
    os.mkfifo(tmp_path / "step_00000002" / name)
    again = start()
    assert loaded(again) == (1, 1.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([left, "step_00000001"])
    save(again, 2)
    assert loaded(start()) == (2, 2.0)


def test_the_same_step_again_replaces_the_first(start):
    saver = start()
    save(saver, 1)
    saver._model.bias.data.fill_(5.0)
    saver.save(1, {})
    saver.wait()
    assert loaded(start()) == (1, 5.0)


def test_everything_is_restored_and_the_moments_too(start):
    saver = start()
    saver._ema.updates = 17
    save(saver, 3)
    other = start()
    for p in other._model.parameters():
        p.data.zero_()
        other._optimizer.state[p]["exp_avg"].zero_()
    other.load(3)
    assert other._ema.updates == 17
    for a, b in zip(saver._model.parameters(), other._model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(saver._optimizer.state[a]["exp_avg"], other._optimizer.state[b]["exp_avg"])


def test_generators_are_restored_only_on_as_many_workers(start, tmp_path):
    save(start(), 1)
    meta = tmp_path / "step_00000001/meta.json"
    assert read_json(meta)["world"] == 1
    for world in (1, 2):
        write_json(meta, read_json(meta) | {"world": world})
        other = start()
        torch.manual_seed(99)
        before = torch.get_rng_state()
        other.load(1)
        assert torch.equal(torch.get_rng_state(), before) == (world == 2)


def test_a_save_is_busy_until_it_is_written_and_holds_up_no_exit(start, monkeypatch):
    saver, go, real = start(), threading.Event(), dcp.save
    assert (saver.busy, saver.failed, saver.wait()) == (False, False, None)
    monkeypatch.setattr(dcp, "save", lambda *args, **options: go.wait(60) and real(*args, **options))
    saver.save(1, {})
    assert (saver.busy, saver.failed) == (True, False)
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "checkpoint"] == [True]
    go.set()
    assert saver._saving.result(60) == saver.folder / "step_00000001"
    assert (saver.busy, saver.failed) == (False, False)


def test_a_save_cut_off_by_a_kill_that_cannot_be_removed_stops_nothing(start, tmp_path, monkeypatch):
    def held(*args, **options):
        raise OSError("busy")

    (tmp_path / ".step_00000007.part").mkdir()
    monkeypatch.setattr(os, "rmdir", held)
    assert start().load_newest() is None


class Usage:
    def __init__(self, free):
        self.free = free


@pytest.mark.parametrize("where", ["save", "publish"])
@pytest.mark.parametrize("free", [SIZE - 1, SIZE, 3 * 2**20])
@pytest.mark.parametrize("before", [[], [4]])
def test_a_failed_save_says_why_what_is_free_and_what_is_left(start, tmp_path, monkeypatch, where, free, before):
    saver = start()
    save(saver, *before)

    def fail(*args, **options):
        raise OSError("no  way\nin")

    monkeypatch.setattr(*((dcp, "save") if where == "save" else (checkpoint, "write_json")), fail)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: Usage(free))
    saver.save(5, {})
    with pytest.raises(CheckpointFailed) as failed:
        saver.wait()
    said = str(failed.value)
    assert f"the checkpoint of step 5 could not be written to {tmp_path} (OSError: " in said
    assert "no way in)" in said
    assert f"{free / 2**20:,.1f} MiB are free there, a checkpoint takes about 0.9 MiB" in said
    assert ("the disk is full" in said) == (free < SIZE)
    assert ("The checkpoint of step 4 is intact" in said) == bool(before)
    assert ("There is no earlier checkpoint" in said) == (not before)
    assert [p.name for p in tmp_path.iterdir()] == [f"step_{step:08d}" for step in before]
    assert saver.wait() is None, "said once"


def test_a_folder_that_cannot_be_removed_stops_nothing_and_is_no_checkpoint(start, tmp_path, monkeypatch):
    saver = start(Retention(last=1))
    save(saver, 1)

    def held(*args):
        raise OSError("busy")

    monkeypatch.setattr(checkpoint, "remove_files", held)
    save(saver, 2)
    assert [step_of(p) for p in checkpoints(tmp_path)] == [2]
    assert list((tmp_path / "step_00000001").glob("*.distcp"))
    assert loaded(start()) == (2, 2.0)


def test_a_persons_copies_links_and_notes_are_left(start, tmp_path):
    saver = start(Retention(last=1))
    save(saver, 1)
    (tmp_path / "step_00000001").rename(tmp_path / "step_00000001_best")
    assert checkpoints(tmp_path) == []
    discard(tmp_path / "absent")
    (tmp_path / "step_00000009").mkdir()
    (tmp_path / "step_00000009/__0_0.distcp").write_text("half deleted before")
    discard(tmp_path / "step_00000009")
    (tmp_path / "link").symlink_to(tmp_path / "step_00000001_best")
    discard(tmp_path / "link")
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001_best"]
    assert (tmp_path / "step_00000001_best/meta.json").exists()
    save(saver, 2)
    (tmp_path / "step_00000002/notes.txt").write_text("mine")
    save(saver, 3)
    assert [step_of(p) for p in checkpoints(tmp_path)] == [3]
    assert [p.read_text() for p in tmp_path.glob("*/notes.txt")] == ["mine"]
