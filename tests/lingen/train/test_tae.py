"""The TAE's training loop in this process, with a process group of one."""

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lingen.train.observers.preemption import Notice
from lingen.train.tae import TAEFitConfig, TAEHooks, fit_tae

CONFIG = TAEFitConfig(
    preset="tae_tiny", steps=60, batch_size=2, crop=32, frames=8, lr=4e-4, warmup=5, ema_decay=0.9, log_every=5,
    validate_every=30, checkpoint_every=60,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def blobs(seed, frames=12):
    """A video of soft coloured blobs that drift: compressible, but not by one colour."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[0:32, 0:32]
    video = np.zeros((frames, 32, 32, 3))
    for _ in range(3):
        (x, y), (u, v), colour = rng.uniform(4, 28, 2), rng.uniform(-0.5, 0.5, 2), rng.uniform(80, 255, 3)
        for t in range(frames):
            near = np.exp(-((xx - x - u * t) ** 2 + (yy - y - v * t) ** 2) / 60)
            video[t] += near[..., None] * colour
    return video.clip(0, 255).astype(np.uint8)


VIDEOS = [functools.partial(blobs, seed) for seed in range(12)]
IMAGES = [functools.partial(blobs, seed, frames=1) for seed in range(20, 24)]
HELD_OUT = [functools.partial(blobs, seed) for seed in range(30, 33)]


SHORT = dataclasses.replace(CONFIG, steps=20, validate_every=20, checkpoint_every=10)


def run(folder, config=CONFIG):
    lines = {}
    hooks = TAEHooks(log=lambda step, m: lines.update({step: m}), pictures=lambda s, v: lines.update(v=v))
    tae, report, finished = fit_tae(config, VIDEOS, IMAGES, HELD_OUT, folder, hooks)
    assert finished
    return tae, report, lines


def test_it_learns_to_reconstruct_what_it_did_not_see(tmp_path):
    tae, report, lines = run(tmp_path)
    assert report["held_out/smallest_gain"] > 6
    assert 0 < report["held_out/ssim"] < 1
    assert report["held_out/psnr"] > lines[0]["held_out/psnr"], "better than its linear start"
    assert lines["v"][0].shape == (12, 32, 64, 3), "originals beside reconstructions"
    with torch.no_grad():
        latents = torch.cat([tae.encode(torch.from_numpy(v()).permute(3, 0, 1, 2)[None] / 127.5 - 1) for v in VIDEOS])
    assert latents.mean().abs() < 0.3
    assert 0.6 < latents.std() < 1.4


@pytest.mark.parametrize("changes", [{}, {"adversarial_weight": 0.1, "adversarial_start": 13}], ids=["l1", "gan"])
def test_killed_and_resumed_gives_the_same_weights(tmp_path, changes):
    """The discriminator too: it is asked from step 13 on, and the checkpoint of step 10 has it."""
    config = dataclasses.replace(SHORT, **changes)
    whole, _, lines = run(tmp_path / "whole", config)
    assert ("discriminator" in lines[20]) == bool(changes)
    assert "discriminator" not in lines[10]

    class Killed(Exception):
        pass

    def die(step, metrics):
        if step == 15:
            raise Killed

    with pytest.raises(Killed):
        fit_tae(config, VIDEOS, IMAGES, HELD_OUT, tmp_path / "killed", TAEHooks(log=die))
    resumed, _, lines = run(tmp_path / "killed", config)
    assert min(k for k in lines if isinstance(k, int)) == 15, "went on from the checkpoint of step 10"
    assert resumed.digest == whole.digest


def test_asked_to_stop_it_saves_and_goes_on_to_the_same_weights(tmp_path):
    whole, _, _ = run(tmp_path / "whole", SHORT)
    asked = itertools.count()
    hooks = TAEHooks(notice=lambda: Notice.STOP if next(asked) == 12 else Notice.NONE)
    *_, finished = fit_tae(SHORT, VIDEOS, IMAGES, HELD_OUT, tmp_path / "stopped", hooks)
    assert not finished
    assert (tmp_path / "stopped" / "checkpoints" / "step_00000013").is_dir()
    resumed, _, _ = run(tmp_path / "stopped", SHORT)
    assert resumed.digest == whole.digest


@pytest.mark.parametrize(
    "bad",
    [
        {"preset": "huge"},
        {"crop": 30},
        {"steps": 0},
        {"adversarial_weight": -1.0},
        {"perceptual": Path("nowhere.pth")},
    ],
)
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=f"fit.{next(iter(bad))}"):
        TAEFitConfig(**bad)
