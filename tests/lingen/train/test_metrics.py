"""The metrics of a report: tokens, MFU, memory; sums that survive a restart."""

import json
import types

import pytest
import torch

from lingen.model.flops import forward_flops
from lingen.model.presets import PRESETS
from lingen.train.metrics import MetricsWindow
from lingen.train.observers.observer import Step

pytestmark = pytest.mark.usefixtures("process_group")


def step_of(count, T, H, W, losses=(1.0,), seconds=2.0):
    mask = torch.ones((), dtype=torch.bool).expand(count, 77)
    latent = torch.zeros(()).expand(count, 16, T, H, W)
    bucket = types.SimpleNamespace(media="video")
    step = Step(0, last=False, seconds=seconds, lr=1e-3, grad_norm=1.0)
    step.batch = types.SimpleNamespace(latent_BCTHW=latent, text=[(None, mask)], replaced={}, bucket=bucket)
    step.loss_B, step.t_B = torch.tensor(losses), torch.tensor([0.1, 0.6, 0.9])[: len(losses)]
    return step


def test_tokens_and_mfu_are_those_of_the_batches():
    window = MetricsWindow(PRESETS["tiny"], "bfloat16", torch.device("cpu"))
    steps = [step_of(3, 2, 8, 8), step_of(1, 4, 6, 10)]
    for known in (False, True):
        window._peak = 1e9 if known else None
        for step in steps:
            window.add(step)
        metrics = window.reduce()
        assert metrics["tokens_per_s"] == (3 * 2 * 16 + 4 * 15) / 4
        assert metrics["memory_gb"] > 0.05
        assert ("mfu_pct" in metrics) == known, "without the device's peak there is none"
    spent = 3 * (3 * _forward((2, 8, 8)) + _forward((4, 6, 10)))
    assert metrics["mfu_pct"] == pytest.approx(100 * spent / 4.0 / 1e9)


def test_sums_come_back_from_a_checkpoint_to_the_bit():
    def window_of(losses, count):
        window = MetricsWindow(PRESETS["tiny"], "bfloat16", torch.device("cpu"))
        window.add(step_of(count, 4, 6, 10, losses, seconds=4.0))
        return window

    losses, many = [1.1, 0.7, 1.3], 3_333_333  # more tokens than float32 can count
    state = json.loads(json.dumps(window_of(losses, many).state()))
    resumed = MetricsWindow(PRESETS["tiny"], "bfloat16", torch.device("cpu"))
    assert resumed.state() is None
    resumed.load_state(state)
    expected, found = window_of(losses, many).reduce(), resumed.reduce()
    same = [n for n in expected if n.startswith("loss") or n.endswith("_per_s") or n == "step_s"]
    assert len(same) > 5
    assert {n: found[n] for n in same} == {n: expected[n] for n in same}


def _forward(shape):
    return sum(forward_flops(PRESETS["tiny"], shape, 77).values())


def test_skipped_and_replaced_are_counted_and_a_sample_without_a_finite_loss_leaves_the_mean_alone():
    window = MetricsWindow(PRESETS["tiny"], "float32", torch.device("cpu"))
    good, bad = step_of(2, 2, 8, 8, (1.0, 3.0)), step_of(2, 2, 8, 8, (float("nan"), 5.0))
    bad.skip_reason, bad.batch.replaced = "the gradient is not finite", {"a": "b"}
    for step in (good, bad):
        window.add(step)
    metrics = window.reduce()
    assert (metrics["skipped_steps"], metrics["replaced_samples"]) == (1, 1)
    assert metrics["loss"] == metrics["loss/video"] == 3.0
    assert "loss/image" not in metrics
    assert (metrics["loss/t0"], metrics["loss/t2"]) == (1.0, 4.0), "by quarter of t: 0.1 and 0.6"
