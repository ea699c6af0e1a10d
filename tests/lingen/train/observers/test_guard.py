"""The guard before the update: alone, and in training with one process (its group is made here)."""

import dataclasses
import errno
import json
import math
import time

import pytest
import torch
import torch.distributed as dist

from lingen.data.batch_plan import BatchPlan
from lingen.data.shard_index import ShardIndex
from lingen.model.denoiser import DenoiserConfig
from lingen.train import loop, stage
from lingen.train.checkpoint import Checkpointer, CheckpointFailed, checkpoints, step_of
from lingen.train.config import FitConfig
from lingen.train.observers.guard import Guard, GuardConfig
from lingen.train.observers.preemption import Notice
from lingen.train.observers.skips import SKIPPED, SkippedSteps

TINY = DenoiserConfig(
    latent_channels=16, width=32, depth=1, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6),
    position_sizes=(4, 4, 4),
)  # fmt: skip
CONFIG = FitConfig(
    steps=14, batch_size=2, image_ratio="1:2", lr=3e-3, warmup=2, checkpoint_every=2, log_every=1, ema_decay=0.9,
    guard=GuardConfig(window=3, max_skips=3, max_rewinds=2),
)  # fmt: skip


def decisions(guard, norms):
    return [guard.reason_to_skip(n) is None for n in norms]


def test_it_skips_what_is_not_finite_or_far_above_the_median():
    guard = Guard(GuardConfig(spike_factor=4, window=3))
    assert decisions(guard, [100.0, 1.0, 2.0]) == [True] * 3, "no spikes before there is a usual norm"
    assert decisions(guard, [7.9, 8.1, math.nan, math.inf, 7.9]) == [True, False, False, False, True]
    assert guard.norms == [2.0, 7.9, 7.9], "skipped norms do not count as usual"


def test_skips_in_a_row_ask_for_a_rewind_and_an_accepted_update_forgets_them():
    guard = Guard(GuardConfig(max_skips=2))
    decisions(guard, [math.nan, 1.0, math.nan])
    assert not guard.wants_rewind
    decisions(guard, [math.nan])
    assert guard.wants_rewind


def test_a_resumed_guard_decides_as_one_that_was_never_stopped():
    norms = [1.0, 2.0, 3.0, 9.0, math.nan, 2.0, 30.0, 31.0]
    whole, first, second = (Guard(GuardConfig(spike_factor=4, window=3)) for _ in range(3))
    expected = decisions(whole, norms)
    start = decisions(first, norms[:5])
    second.load_state(json.loads(json.dumps(first.state())))
    assert start + decisions(second, norms[5:]) == expected
    assert second.state() == whole.state()


@pytest.mark.parametrize(("name", "value"), [("spike_factor", 0.5), ("window", 0), ("max_skips", 0)])
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"fit.guard.{name}"):
        dataclasses.replace(GuardConfig(), **{name: value})


def test_a_replayed_step_is_recorded_once_and_half_a_line_is_dropped(tmp_path):
    SkippedSteps(tmp_path).add({"event": "skip", "step": 3})
    with open(tmp_path / SKIPPED, "a") as f:
        f.write('{"event": "ski')
    again = SkippedSteps(tmp_path)
    for step in (3, 4):
        again.add({"event": "skip", "step": step})
    assert [json.loads(line)["step"] for line in (tmp_path / SKIPPED).read_text().splitlines()] == [3, 4]


@pytest.fixture(scope="module")
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def train(process_group, make_shards, monkeypatch, tmp_path):
    """train(name, bad={step: factor of the loss}, stop_at=None, **config) -> ({step: loss}, weights, output)."""
    index = ShardIndex.open(make_shards({"image_64x64": 7, "video_64x64_16f": 9}))
    plan = BatchPlan(index, seed=0, batch_size=2, image_ratio="1:2")
    steps_of_seeds = {s.seed: step for step in range(CONFIG.steps) for s in plan[step].samples}
    draw, loss = loop.draw_noise_and_times, loop.per_sample_loss
    now = []

    def drawn(seeds, shape):
        now[:] = [steps_of_seeds[seed] for seed in seeds]
        return draw(seeds, shape)

    monkeypatch.setattr(loop, "draw_noise_and_times", drawn)
    monkeypatch.setattr(stage, "check_kernels", lambda *args: None)

    def run(name, bad, stop_at=None, on_log=lambda step, metrics: None, **changes):
        # The first sample of a bad step is poisonous, as a broken latent would be.
        def poisoned(prediction, target):
            factor = torch.ones(len(now))
            factor[0] = bad.get(now[0], 1.0)
            return loss(prediction, target) * factor

        monkeypatch.setattr(loop, "per_sample_loss", poisoned)
        curve, output = {}, tmp_path / name
        hooks = stage.Hooks(
            log=lambda step, metrics: (curve.update({step: metrics["loss"]}), on_log(step, metrics)),
            notice=lambda: Notice.STOP if now and now[0] + 1 == stop_at else Notice.NONE,
        )
        now.clear()
        model, _, _ = stage.fit(dataclasses.replace(CONFIG, **changes), TINY, index, output, hooks=hooks)
        return curve, torch.cat([p.detach().full_tensor().flatten() for p in model.parameters()]), output

    return run


def events(output):
    return [json.loads(line) for line in (output / SKIPPED).read_text().splitlines()]


def test_poisonous_steps_are_skipped_recorded_and_change_nothing(train):
    curve, weights, output = train("bad", {6: math.nan, 9: 1e4})
    assert torch.isfinite(weights).all()
    assert [(e["event"], e["step"]) for e in events(output)] == [("skip", 6), ("skip", 9)]
    first, second = (e["samples"] for e in events(output))
    assert first[0]["loss"] == "nan"
    assert second[0]["loss"] > 1000 > second[1]["loss"], "both samples of the batch, with their own losses"
    assert all(math.isfinite(loss) for loss in curve.values())

    resumed, again, _ = train("stopped", {6: math.nan, 9: 1e4}, stop_at=6)
    assert max(resumed) == 7
    after, again, output = train("stopped", {6: math.nan, 9: 1e4})
    assert resumed | after == curve, "stopped at the skipped step itself, and resumed"
    torch.testing.assert_close(again, weights, rtol=0, atol=0)
    assert [e["step"] for e in events(output)] == [6, 9]


def test_after_skips_in_a_row_the_weights_go_back_and_the_plan_goes_on(train):
    bad = dict.fromkeys((5, 6, 7, 8, 9, 10), math.nan)
    curve, weights, output = train("rewound", bad)
    rewinds = [(e["step"], e["to_checkpoint"]) for e in events(output) if e["event"] == "rewind"]
    assert rewinds == [(7, 4), (10, 2)], "to the newest checkpoint; without effect, to the one before it"
    assert sorted(curve) == list(range(1, 15)), "every step once"

    # A kill in between loses nothing: the same skips and rewinds, the same weights.
    train("stopped", bad, stop_at=8)
    _, again, output = train("stopped", bad)
    assert [(e["step"], e["to_checkpoint"]) for e in events(output) if e["event"] == "rewind"] == rewinds
    torch.testing.assert_close(again, weights, rtol=0, atol=0)


def test_when_rewinds_do_not_help_the_error_names_the_samples(train, tmp_path):
    with pytest.raises(FloatingPointError, match=r"3 updates in a row .* after 2 rewinds .*\(loss nan\)") as error:
        train("hopeless", dict.fromkeys(range(5, 14), math.nan))
    skips = [e for e in events(tmp_path / "hopeless") if e["event"] == "skip"]
    assert [e["step"] for e in skips] == list(range(5, 14))
    assert all(e["samples"][0]["key"] in str(error.value) for e in skips[-3:])
    assert [step_of(p) for p in checkpoints(tmp_path / "hopeless" / "checkpoints")] == [2, 4]


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
