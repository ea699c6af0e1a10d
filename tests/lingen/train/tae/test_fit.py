"""The TAE's training from start to end, in this process."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from lingen.tae.config import TAE_PRESETS
from lingen.tae.tae import TAE
from lingen.train.observers.preemption import Notice
from lingen.train.tae import TAEFitConfig, TAEHooks, fit_tae
from lingen.train.tae.crops import to_tensor
from lingen.train.tae.fit import measure_normalisation

pytestmark = pytest.mark.usefixtures("process_group")

CONFIG = TAEFitConfig(
    preset="tae_tiny", steps=60, batch_size=2, crop=32, frames=8, lr=4e-4, warmup=5, ema_decay=0.9, log_every=5,
    validate_every=30, checkpoint_every=60,
)  # fmt: skip
SHORT = dataclasses.replace(CONFIG, steps=20, validate_every=20, checkpoint_every=10)


def run(folder, pixels, config=SHORT):
    """(TAE, last validation, {step: metrics, "pictures": of the last validation}) of training to the end."""
    lines = {}
    hooks = TAEHooks(log=lambda step, m: lines.update({step: m}), pictures=lambda s, v: lines.update(pictures=v))
    tae, report, finished = fit_tae(config, pixels.videos, pixels.images, pixels.held_out, folder, hooks)
    assert finished
    return tae, report, lines


@pytest.mark.slow
def test_it_learns_to_reconstruct_what_it_did_not_see(tmp_path, pixels):
    tae, report, lines = run(tmp_path, pixels, CONFIG)
    assert report["held_out/smallest_gain"] > 6
    assert 0 < report["held_out/ssim"] < 1
    assert report["held_out/psnr"] > lines[0]["held_out/psnr"], "better than its linear start"
    assert lines["pictures"][0].shape == (12, 32, 64, 3), "originals beside reconstructions"
    with torch.no_grad():
        latents = torch.cat([tae.encode(to_tensor(read())[None]) for read in pixels.videos])
    assert latents.mean().abs() < 0.3
    assert 0.6 < latents.std() < 1.4


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"adversarial_weight": 0.1, "adversarial_start": 13}], ids=["l1", "gan"])
def test_killed_and_resumed_gives_the_same_weights(tmp_path, pixels, changes):
    """The discriminator too: it takes part from step 13 on, and the checkpoint of step 10 has it."""
    config = dataclasses.replace(SHORT, **changes)
    whole, _, lines = run(tmp_path / "whole", pixels, config)
    assert ("discriminator" in lines[20]) == bool(changes)
    assert "discriminator" not in lines[10]

    class Killed(Exception):
        pass

    def die(step, metrics):
        if step == 15:
            raise Killed

    with pytest.raises(Killed):
        fit_tae(config, pixels.videos, pixels.images, pixels.held_out, tmp_path / "killed", TAEHooks(log=die))
    resumed, _, lines = run(tmp_path / "killed", pixels, config)
    assert min(k for k in lines if isinstance(k, int)) == 15, "resumed from the checkpoint of step 10"
    assert resumed.digest == whole.digest


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_resumes_to_the_same_weights(tmp_path, pixels):
    whole, _, _ = run(tmp_path / "whole", pixels)
    asked = itertools.count()
    hooks = TAEHooks(notice=lambda: Notice.STOP if next(asked) == 12 else Notice.NONE)
    *_, finished = fit_tae(SHORT, pixels.videos, pixels.images, pixels.held_out, tmp_path / "stopped", hooks)
    assert not finished
    assert (tmp_path / "stopped" / "checkpoints" / "step_00000013").is_dir()
    resumed, _, _ = run(tmp_path / "stopped", pixels)
    assert resumed.digest == whole.digest


def test_without_held_out_segments_there_are_no_pictures_and_no_quality(tmp_path, pixels):
    """Nothing can be held out of clips from one source."""
    config, lines = dataclasses.replace(SHORT, steps=2, batch_size=1, validate_every=1), {}
    hooks = TAEHooks(
        log=lambda step, m: lines.update({step: m}), pictures=lambda step, videos: lines.update(pictures=step)
    )
    _, report, finished = fit_tae(config, pixels.videos[:1], [], [], tmp_path, hooks)
    assert finished
    assert report == {}
    assert "pictures" not in lines
    assert {"l1", "grad_norm", "lr", "step_s"} <= lines[2].keys()


def test_shift_and_scale_make_raw_latents_zero_mean_and_unit_variance(pixels):
    torch.manual_seed(0)
    tae = TAE(TAE_PRESETS["tae_tiny"])
    measure_normalisation(tae, pixels.videos)
    with torch.no_grad():
        latents = torch.cat([tae.encode(to_tensor(read())[None]) for read in pixels.videos]).double()
    np.testing.assert_allclose(latents.mean((0, 2, 3, 4)), 0, atol=1e-4)
    np.testing.assert_allclose(latents.var((0, 2, 3, 4), correction=0), 1, atol=1e-3)
