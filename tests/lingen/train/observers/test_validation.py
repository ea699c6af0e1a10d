"""Validation: the same numbers on any number of real processes; when it comes, and with which weights."""

import json

import numpy as np
import pytest
import torch

from lingen.data.selection import select
from lingen.train.ema import EMA
from lingen.train.flow import SIGMA_MIN
from lingen.train.observers import validation
from lingen.train.observers.observer import Step
from lingen.train.observers.validation import HeldOutValidation, Validation

SCRIPT = """
import json, sys
import torch, torch.distributed as dist
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.data.selection import select
from lingen.data.shard_index import ShardIndex
from lingen.train.config import FitConfig
from lingen.train.sharding import shard
from lingen.train.observers.validation import Validation
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
dist.init_process_group("gloo")
torch.manual_seed(0)
model = Denoiser(DenoiserConfig(width=32, depth=2, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6),
                                position_sizes=(4, 4, 4)))
for p in model.parameters():
    torch.nn.init.normal_(p, std=0.1)
shard(model, FitConfig())
out = select(ShardIndex.open(sys.argv[1]), 0.25)[1]
found = {n: Validation(out, 5, levels=4, micro_batch=n)(model, torch.device("cpu")) for n in (0, 3)}
if dist.get_rank() == 0:
    print(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_the_same_numbers_to_the_bit_on_one_worker_and_on_three(shards, run_ranks):
    alone, shared = (json.loads(run_ranks(SCRIPT, count, shards.folder)[0]) for count in (1, 3))
    assert alone == shared
    values = alone["0"]
    assert set(values) == {"val/loss", "val/image", *(f"val/t{i}" for i in range(4))}
    assert len(set(values.values())) == 6
    assert values["val/loss"] == pytest.approx(np.mean([values[f"val/t{i}"] for i in range(4)]))
    assert alone["3"] == pytest.approx(values, rel=1e-5)


class Knowing:
    """In place of a model: knows the samples, and so the right velocity; errs by t for videos, by 3 + t for images.

    Attributes:
        noises: ((bucket, row), time) -> the noise that it saw.
        sizes: levels per call.
    """

    def __init__(self, held_out):
        self.samples = {(name, row): b.read(row) for name, b in held_out.buckets.items() for row in range(len(b))}
        self.noises, self.sizes = {}, []

    def __call__(self, x, t, text):
        self.sizes.append(len(t))
        (words_BLD, mask_BL), t_BCTHW = text[0], t.view(-1, 1, 1, 1, 1)
        assert all(len(e) == len(m) == len(x) for e, m in text)
        sample = next(
            sample
            for sample, (latent, texts) in self.samples.items()
            if latent.shape == x.shape[1:] and torch.equal(words_BLD[0][mask_BL[0]], texts[0].float())
        )
        data = self.samples[sample][0].float()
        noise = (x - t_BCTHW * data) / (1 - (1 - SIGMA_MIN) * t_BCTHW)
        self.noises |= {(sample, time): of_level for time, of_level in zip(t.tolist(), noise)}
        return data - (1 - SIGMA_MIN) * noise + (3 if x.shape[2] == 1 else 0) + t_BCTHW


TIMES = (0.125, 0.375, 0.625, 0.875)


@pytest.mark.usefixtures("process_group")
def test_every_sample_is_seen_at_the_middle_of_every_level_with_its_own_noise(shards):
    _, out = select(shards, 0.25)
    model = Knowing(out)
    found = Validation(out, 4, levels=4, micro_batch=3)(model, torch.device("cpu"))
    expected = {f"val/t{i}": t**2 for i, t in enumerate(TIMES)}
    expected |= {"val/loss": np.mean(np.square(TIMES)), "val/image": np.mean((3 + np.array(TIMES)) ** 2)}
    assert found == pytest.approx(expected, rel=1e-4)
    assert model.sizes == [3, 1] * 8
    chosen = [(name, row) for name in out.buckets for row in (0, 5, 10, 15)]
    assert set(model.noises) == {(sample, t) for sample in chosen for t in TIMES}, "evenly spread over the samples"
    for sample in chosen:
        for t in TIMES[1:]:
            torch.testing.assert_close(model.noises[sample, t], model.noises[sample, TIMES[0]], atol=1e-3, rtol=1e-3)
    noises = torch.stack([model.noises[sample, TIMES[0]].flatten() for sample in chosen[4:]])
    assert abs(noises.mean()) < 0.05
    assert abs(noises.std() - 1) < 0.05
    assert torch.corrcoef(noises).fill_diagonal_(0).abs().max() < 0.2, "no two samples share their noise"


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_share_the_samples_and_call_the_model_equally_often(shards, monkeypatch, world):
    _, out = select(shards, 0.25)
    calls, losses = [], []
    monkeypatch.setattr(validation.dist, "get_world_size", lambda: world)
    monkeypatch.setattr(validation.dist, "all_reduce", lambda of_rank: losses.append(of_rank.clone()))
    for rank in range(world):
        monkeypatch.setattr(validation.dist, "get_rank", lambda rank=rank: rank)
        model = Knowing(out)
        Validation(out, 4, levels=4)(model, torch.device("cpu"))
        calls.append(len(model.sizes))
    assert calls == [-(-8 // world)] * world
    rows = torch.stack(losses)
    assert (rows.ne(0).all(2).sum(0) == 1).all(), "every sample is one rank's"
    image, video = (3 + torch.tensor(TIMES)) ** 2, torch.tensor(TIMES) ** 2
    torch.testing.assert_close(rows.sum(0), torch.stack([image] * 4 + [video] * 4).double(), rtol=1e-3, atol=1e-5)


def test_a_damaged_held_out_sample_is_left_out_and_named(shards, caplog):
    _, out = select(shards, 0.25)
    rows = out.buckets["image_64x64"].table.select(["key", "shard", "offset"]).to_pylist()
    with open(f"{shards.folder}/latents/image_64x64/{rows[0]['shard']}", "r+b") as f:
        f.seek(rows[0]["offset"] + 100)
        f.write(b"broken")
    assert len(Validation(out, 100, levels=4)) == 31
    assert rows[0]["key"] in caplog.text


def test_the_average_is_validated_at_the_start_when_due_and_at_the_end():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 3.0)
    ema = EMA(model, 0.9)
    torch.nn.init.constant_(model.weight, 7.0)
    logged, metrics = {}, {}

    def measure(model, device):
        return {"val/loss": model.weight.item()}

    validation = HeldOutValidation(2, measure, model, ema, torch.device("cpu"), lambda s, m: logged.update({s: m}))
    validation.start(0)
    for number in range(5):
        step = Step(number, last=number == 4, metrics={"loss": 1.0})
        validation.after_step(step)
        metrics[step.done] = step.metrics
        assert model.weight.item() == 7.0
    assert logged == {0: {"val/loss": 3.0}}
    without, added = {"loss": 1.0}, {"loss": 1.0, "val/loss": 3.0}
    assert metrics == {1: without, 2: added, 3: without, 4: added, 5: added}
    assert validation.values == {"val/loss": 3.0}

    logged.clear()
    validation.start(4)
    assert not logged, "a resumed run was validated at its start"
