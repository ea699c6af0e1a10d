"""Checkpoints in training: when they are due, which a rewind may use, and when a failed one is noticed."""

import errno
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lingen.train.checkpoint import Checkpointer, CheckpointFailed
from lingen.train.observers.checkpoints import PublishCheckpoints, SaveCheckpoints
from lingen.train.observers.guard import Guard, GuardConfig
from lingen.train.observers.observer import Step
from lingen.train.observers.preemption import Notice


class Recorder:
    """A checkpointer that writes nothing."""

    def __init__(self):
        self.saves, self.in_flight, self.busy, self.failed = [], None, False, False

    def save(self, step, meta, regular=True):
        self.saves.append((step, regular, meta))
        self.in_flight = Path(f"step_{step:08d}")

    def wait(self):
        path, self.in_flight = self.in_flight, None
        return path


def saves_of(steps, every=4, guard=None, notices=None):
    """(saves, published) of a run with notices {step: notice}."""
    checkpointer, published = Recorder(), []
    publish = PublishCheckpoints(checkpointer, lambda step, path: published.append(step))
    metrics = SimpleNamespace(state=lambda: {"steps": 1}, seconds={"checkpoint": 0.0})
    save = SaveCheckpoints(every, checkpointer, publish, guard or Guard(GuardConfig()), metrics, {"about": {}})
    for number in range(steps):
        step = Step(number, last=number + 1 == steps, notice=(notices or {}).get(number + 1, Notice.NONE))
        save.after_step(step)
        if step.notice == Notice.STOP:
            break
    return checkpointer.saves, published


def test_a_checkpoint_comes_every_so_many_steps_and_at_the_end_and_the_last_is_waited_for(process_group):
    saves, published = saves_of(10)
    assert [(step, regular) for step, regular, _ in saves] == [(4, True), (8, True), (10, False)]
    assert published == [4, 8, 10], "each before the next is started"
    assert saves[0][2] == {"about": {}, "guard": Guard(GuardConfig()).state(), "window": {"steps": 1}}


def test_a_notice_saves_beside_the_regular_ones_and_to_stop_waits(process_group, caplog):
    saves, published = saves_of(10, notices={2: Notice.SAVE, 6: Notice.STOP})
    assert [(step, regular) for step, regular, _ in saves] == [(2, False), (4, True), (6, False)]
    assert published == [2, 4, 6]


def test_suspect_weights_are_no_regular_checkpoint(process_group):
    guard = Guard(GuardConfig())
    guard.reason_to_skip(float("nan"))
    assert [(step, regular) for step, regular, _ in saves_of(10, guard=guard)[0]] == [(10, False)]


@pytest.mark.parametrize(("failed", "busy", "waits"), [(False, True, False), (False, False, True), (True, True, True)])
def test_a_checkpoint_is_published_once_no_rank_writes_and_at_once_when_one_failed(failed, busy, waits):
    checkpointer, published = Recorder(), []
    publish = PublishCheckpoints(checkpointer, lambda step, path: published.append((step, path)))
    checkpointer.save(3, {})
    step = Step(5, last=False)
    publish.before_step(step)
    assert step.flags == {"save_failed": False, "save_busy": False}
    step.flags = {"save_failed": failed, "save_busy": busy}  # as agreed on by all ranks
    publish.after_step(step)
    assert published == ([(3, Path("step_00000003"))] if waits else [])


def test_a_save_that_fails_is_an_error_at_the_next_step(train, tmp_path, monkeypatch):
    publish = Checkpointer._publish

    def full(self, step, meta):
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(self, step, meta)

    monkeypatch.setattr(Checkpointer, "_publish", full)
    reported = []

    def slow_step(step, metrics):
        reported.append(step)
        time.sleep(0.5 if step > 4 else 0)  # longer than the save takes

    with pytest.raises(CheckpointFailed, match=r"step 4 could not be written .*No space left .* step 2 is intact"):
        train("full", {}, on_log=slow_step)
    assert max(reported) == 5, "not only at the next save"
    assert [p.name for p in (tmp_path / "full" / "checkpoints").iterdir()] == ["step_00000002"]
