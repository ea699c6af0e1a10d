"""What is reported between two logs: tokens, MFU, memory."""

import json
import types

import pytest
import torch
import torch.distributed as dist

from lingen.model.flops import forward_flops, peak_flops
from lingen.model.presets import PRESETS
from lingen.train.metrics import MetricsWindow
from lingen.train.observers.observer import Step


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def step_of(count, T, H, W, losses=(1.0,), seconds=2.0):
    mask = torch.ones((), dtype=torch.bool).expand(count, 77)
    latent = torch.zeros(()).expand(count, 16, T, H, W)
    bucket = types.SimpleNamespace(media="video")
    batch = types.SimpleNamespace(latent_BCTHW=latent, text=[(None, mask)], replaced={}, bucket=bucket, step=0)
    times = torch.tensor([0.1, 0.6, 0.9])[: len(losses)]
    return Step(batch, last=False, seconds=seconds, lr=1e-3, grad_norm=1.0, loss_B=torch.tensor(losses), t_B=times)


def test_tokens_and_mfu_are_those_of_the_batches(one_process):
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


def test_what_was_added_up_comes_back_from_a_checkpoint_to_the_bit(one_process):
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


def test_peaks_are_found_by_the_devices_own_names():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("Radeon") is None
