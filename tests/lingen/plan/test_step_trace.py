"""The traced step: exact in depth, and its peak beside that of a real step, as PyTorch's allocator saw it."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lingen.data.buckets import Bucket
from lingen.data.loader import LatentBatch
from lingen.model.denoiser import Denoiser
from lingen.model.flops import forward_flops
from lingen.model.presets import preset
from lingen.plan.step_trace import Workload, layer_period, trace, trace_pieces
from lingen.plan.timeline import add_up
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.loop import Trainer
from lingen.train.observers.observer import Observers, Step
from lingen.train.optimizer import build_optimizer
from lingen.train.ranks import local
from lingen.train.sharding import shard


def small(depth=6, samples=1, micro_batch=1, ranks=1, shape=(8, 16, 16), name="tiny", **fit):
    """A workload of few operators."""
    architecture = dataclasses.replace(preset(name), depth=depth, ssd_backend="torch", position_sizes=(16, 16, 16))
    settings = {"activation_checkpointing": True, "batch_size": samples * ranks, "micro_batch": micro_batch}
    return Workload(
        architecture=dataclasses.replace(architecture, text_dims=(128,)),
        fit=FitConfig(**(settings | fit)),
        latent_shape=shape,
        samples=samples,
        ranks=ranks,
        text_tokens=(16,),
        card=False,
    )


def real_peak(work: Workload) -> int:
    """Bytes at the peak of a real step on the CPU, from every allocation that PyTorch's profiler saw."""
    torch.manual_seed(0)
    model = Denoiser(work.architecture)
    shard(model, work.fit)
    average, optimizer = EMA(model, 0.9), build_optimizer(model, work.fit)
    trainer = Trainer(work.fit, model, average, optimizer, Observers([]), torch.device("cpu"))
    T, H, W = work.latent_shape
    batch = LatentBatch(
        step=0,
        bucket=Bucket("video", 8 * H, 8 * W, 8 * T),
        latent_BCTHW=torch.randn(work.samples, 16, T, H, W),
        text=[(torch.randn(work.samples, 16, 128), torch.ones(work.samples, 16, dtype=torch.bool))],
        keys=[""] * work.samples,
        seeds=list(range(work.samples)),
        places=range(work.samples),
        replaced={},
    )
    for number in (0, 1):  # the first one makes the optimizer's state
        step = Step(number, last=False)
        step.batch = batch
        if number == 1:
            state = [value for s in optimizer.state.values() for value in s.values() if isinstance(value, Tensor)]
            held = [*model.parameters(), *average.weights.values(), *state, batch.latent_BCTHW, *batch.text[0]]
            before = sum(z.numel() * z.element_size() for z in map(local, held))
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                trainer.train_step(step)
        else:
            trainer.train_step(step)
    events = profiler.profiler.kineto_results.events()
    changes = [
        (e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]" and e.device_type() == DeviceType.CPU
    ]
    now = most = before
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "micro_batch", "settings"),
    [
        (2, 2, {}),
        (2, 1, {}),
        (1, 1, {"activation_checkpointing": False}),
        (1, 1, {"precision": "bfloat16"}),
    ],
)
def test_the_traced_peak_is_that_of_a_real_step_within_a_tenth(samples, micro_batch, settings):
    work = small(samples=samples, micro_batch=micro_batch, shape=(12, 24, 24), depth=11, **settings)
    traced = trace(work)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        real = real_peak(work)
    finally:
        dist.destroy_process_group()
    assert traced.peak_bytes == pytest.approx(real, rel=0.1)
    # It is the step that is compared, not the state.
    assert traced.peak["activations"] + traced.peak["temporaries"] > traced.peak["weights"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "samples", "settings"), [(9, 1, {}), (12, 4, {}), (10, 2, {"shard_group": 8, "precision": "bfloat16"})]
)
def test_a_shallow_trace_gives_a_deep_one_exactly(depth, samples, settings):
    work = dataclasses.replace(small(depth=depth, samples=samples, ranks=64, **settings), card=True)
    direct, short = add_up(trace_pieces(work)), trace(work)
    assert short.peak == pytest.approx(direct.peak, abs=64)  # each micro-batch's losses and times are kept
    assert short.resting == pytest.approx(direct.resting, abs=64)
    assert short.flops == direct.flops
    assert short.bytes_moved == pytest.approx(direct.bytes_moved, rel=0.002)
    assert short.gathered("gather") == direct.gathered("gather")
    assert short.gathered("reduce") == pytest.approx(direct.gathered("reduce"), rel=0.001)


@pytest.mark.slow
def test_traced_flops_are_those_of_the_formula():
    work = small(depth=7, activation_checkpointing=False, shape=(1, 32, 32), name="lingen_4b")
    work = dataclasses.replace(work, card=True)
    parts = forward_flops(work.architecture, work.latent_shape, 16, executed=True)
    formula = 3 * (sum(parts.values()) - parts["ma_branch.conv"])  # on a card, elementwise operators
    assert trace(work).flops == pytest.approx(formula, rel=0.01)


def test_layers_repeat_with_their_scans_and_windows():
    assert [layer_period(preset(name)) for name in ("tiny", "dit_tiny")] == [4, 1]
    assert layer_period(dataclasses.replace(preset("tiny"), ma_branch="none")) == 2


def test_a_process_group_of_its_own_is_refused_not_destroyed():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="in another process"):
            trace_pieces(small())
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
