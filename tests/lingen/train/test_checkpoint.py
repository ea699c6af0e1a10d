"""Checkpoints: written in the background, published whole or not at all, kept as configured."""

import random
import subprocess
import threading

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from lingen.train.checkpoint import Checkpointer, CheckpointFailed, Retention, checkpoint_path, checkpoints, step_of
from lingen.train.ema import EMA

pytestmark = pytest.mark.usefixtures("process_group")


class Run:
    """A small model in training."""

    def __init__(self, folder, retention=None):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(300, 200)
        self.ema = EMA(self.model, 0.9)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.checkpointer = Checkpointer(folder, self.model, self.ema, self.optimizer, retention or Retention())

    def update(self):
        self.model(torch.ones(1, 300)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)

    def state(self):
        moments = self.optimizer.state_dict()["state"]
        tensors = [
            *self.model.parameters(),
            *self.ema.weights.values(),
            *(t for m in moments.values() for t in m.values()),
        ]
        return [t.detach().clone() for t in tensors]


def held(monkeypatch):
    """Writing waits until the returned event is set, as on a slow disk."""
    go, save = threading.Event(), dcp.save

    def slow(*args, **options):
        assert go.wait(60)
        return save(*args, **options)

    monkeypatch.setattr(dcp, "save", slow)
    return go


def test_training_continues_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    run, go = Run(tmp_path), held(monkeypatch)
    run.update()
    saved = run.state()
    run.checkpointer.save(1, {"note": "x"})
    run.update()
    assert run.checkpointer.busy
    assert checkpoints(tmp_path) == [], "no name before all is written"
    go.set()
    assert run.checkpointer.wait() == checkpoint_path(tmp_path, 1)
    assert not run.checkpointer.busy

    other = Run(tmp_path)
    meta = other.checkpointer.load_newest()
    assert (meta["step"], meta["note"], other.ema.updates) == (1, "x", 1)
    for a, b in zip(other.state(), saved, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg="the state when save was called, not the later one")


def test_one_save_at_a_time(tmp_path, monkeypatch):
    run, go = Run(tmp_path), held(monkeypatch)
    run.update()
    run.checkpointer.save(1, {})
    threading.Timer(0.2, go.set).start()
    run.checkpointer.save(2, {})
    assert checkpoint_path(tmp_path, 1) in checkpoints(tmp_path), "the second waited for the first"
    run.checkpointer.wait()
    assert [step_of(p) for p in checkpoints(tmp_path)] == [1, 2]


def test_the_last_ones_and_every_nth_are_kept(tmp_path):
    run = Run(tmp_path, Retention(last=2, every=4))
    run.update()
    for step in range(1, 11):
        run.checkpointer.save(step, {})
    run.checkpointer.save(11, {}, regular=False)
    run.checkpointer.wait()
    assert [step_of(p) for p in checkpoints(tmp_path)] == [4, 8, 9, 10, 11]
    run.checkpointer.save(12, {})
    run.checkpointer.wait()
    assert [step_of(p) for p in checkpoints(tmp_path)] == [4, 8, 10, 12], "what a notice asked for is kept while newest"


def test_random_generators_continue_where_they_were(tmp_path):
    run = Run(tmp_path)
    run.update()
    random.gauss(0, 1)  # leaves a second number for the next call
    run.checkpointer.save(1, {})
    run.checkpointer.wait()

    def draw():
        return [random.gauss(0, 1), random.random(), *np.random.rand(3), *torch.rand(3).tolist()]

    expected = draw()
    other = Run(tmp_path)
    other.checkpointer.load_newest()
    assert draw() == expected


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for one checkpoint of `Run`, not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_a_clear_error_and_the_checkpoint_before_is_intact(small_disk):
    run = Run(small_disk / "checkpoints")
    run.update()
    run.checkpointer.save(1, {})
    run.checkpointer.wait()
    saved = run.state()
    run.update()
    run.checkpointer.save(2, {})
    while run.checkpointer.busy:
        pass
    assert run.checkpointer.failed
    with pytest.raises(
        CheckpointFailed,
        match=r"step 2 could not be written to .*/disk/checkpoints \(.*rank 0: .*the disk is full: .* step 1 is intact",
    ):
        run.checkpointer.save(3, {})
    assert [p.name for p in (small_disk / "checkpoints").iterdir()] == ["step_00000001"], "nothing of the failed one"

    other = Run(small_disk / "checkpoints")
    assert other.checkpointer.load_newest()["step"] == 1
    for a, b in zip(other.state(), saved, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_save_cut_off_by_a_kill_is_removed_at_the_next_start(tmp_path):
    (tmp_path / ".step_00000007.part").mkdir()
    run = Run(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert run.checkpointer.load_newest() is None
