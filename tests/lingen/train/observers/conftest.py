"""Training with bad steps, in this process."""

import dataclasses

import pytest
import torch

from lingen.data.batch_plan import BatchPlan
from lingen.data.shard_index import ShardIndex
from lingen.model.denoiser import DenoiserConfig
from lingen.train import loop, stage
from lingen.train.config import FitConfig
from lingen.train.observers.guard import GuardConfig
from lingen.train.observers.preemption import Notice

TINY = DenoiserConfig(
    latent_channels=16, width=32, depth=1, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6),
    position_sizes=(4, 4, 4),
)  # fmt: skip
CONFIG = FitConfig(
    steps=14, batch_size=2, image_ratio="1:2", lr=3e-3, warmup=2, checkpoint_every=2, log_every=1, ema_decay=0.9,
    guard=GuardConfig(window=3, max_skips=3, max_rewinds=2),
)  # fmt: skip


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
