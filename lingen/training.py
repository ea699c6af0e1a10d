"""Training one stage: flow matching on latents, sharded by FSDP2, exact to the step. No Ray and no MLflow here.

A step is a function of (seed, step, weights): the plan names the samples, each sample carries the seed of its noise and
time, and gradients are averaged over the global batch, whatever the number of workers.

Legend: B samples of this rank, C channels, T/H/W latent axes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lingen.checkpoint import load_newest, save_checkpoint
from lingen.denoiser import Denoiser, DenoiserConfig
from lingen.ema import EMA
from lingen.export import read_weights
from lingen.flow import draw_noise_and_times, interpolate, per_sample_loss
from lingen.loader import LatentBatch, LatentLoader
from lingen.manifest import digest
from lingen.plan import BatchPlan
from lingen.review import review_grid
from lingen.shard_index import ShardIndex
from lingen.ssd import self_test

log = logging.getLogger(__name__)

NOISE_LEVELS = 4  # the loss is also reported by quarter of t: how well each part of the path is learnt


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a stage is trained: all that decides its loss curve. Defaults are Movie Gen's where LinGen states none."""

    steps: int = 1000
    """updates"""
    batch_size: int = 64
    """samples in a global batch"""
    micro_batch: int = 0
    """samples a worker takes through the model at once; 0: all it has (no gradient accumulation)"""
    image_ratio: str = "1:100"
    """images to videos in video stages, in samples"""
    text_dropout: float = 0.1
    """share of samples trained without text, for guidance"""
    lr: float = 6e-5
    """peak learning rate of AdamW"""
    lr_end: float = 1e-5
    """learning rate at the last step (half-cosine from the peak); equal to lr for a constant one"""
    warmup: int = 100
    """steps of linear warm-up"""
    weight_decay: float = 0.01
    """of matrices; vectors (norms, biases, A, D, dt) have none"""
    beta2: float = 0.95
    """second-moment decay of AdamW"""
    grad_clip: float = 1.0
    """largest norm of the gradient"""
    ema_decay: float = 0.9999
    """decay of the averaged weights"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the model's arithmetic; weights, gradients' sums and optimizer state stay float32"""
    activation_checkpointing: bool = False
    """recompute each layer's activations in the backward pass: memory for a third more time"""
    compile: bool = False
    """torch.compile every layer"""
    seed: int = 0
    """of initial weights, sample order, noise and times"""
    checkpoint_every: int = 1000
    """steps between checkpoints; one is saved at the end in any case"""
    keep_checkpoints: int = 2
    """how many of the newest stay"""
    log_every: int = 10
    """steps between reported metrics (means over those steps)"""
    sample_every: int = 0
    """steps between sample videos; 0: at the end only"""
    max_skips: int = 10
    """updates in a row that may be skipped for a non-finite gradient before training stops"""

    def __post_init__(self):
        for name in ("steps", "batch_size", "checkpoint_every", "keep_checkpoints", "log_every", "max_skips"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"fit.ema_decay: must be in [0, 1), got {self.ema_decay}")
        if not self.lr > 0 or self.lr_end < 0:
            raise ValueError(f"fit.lr: must be positive (and lr_end not negative), got {self.lr} and {self.lr_end}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the caller wants to hear. Every rank calls them at the same steps; all but rank 0 may ignore the content."""

    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None
    sample: Callable[[int, Denoiser], None] = lambda step, model: None
    saved: Callable[[int, Path], None] = lambda step, path: None
    stop: Callable[[], bool] = lambda: False
    """asked after each checkpoint; True ends training early (a preemption)"""


def learning_rate(config: FitConfig, step: int) -> float:
    """Linear warm-up, then half a cosine from lr to lr_end. `step` counts from 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.steps - 1 - config.warmup, 1)
    return config.lr_end + (config.lr - config.lr_end) * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))


def fit(
    config: FitConfig,
    architecture: DenoiserConfig,
    shards: ShardIndex,
    output: Path,
    init: Path | None = None,
    hooks: Hooks = Hooks(),
) -> tuple[Denoiser, EMA, bool]:
    """Train one stage to its end, from `init` (an exported model) or from the newest checkpoint in `output`.

    Needs an initialised process group (one rank is enough; under torchrun it is the launcher's). Returns (model, EMA,
    finished): finished is False when a hook asked to stop.

    Raises:
        ValueError: the checkpoint in `output` was made with other data or settings.
        FloatingPointError: `max_skips` non-finite gradients in a row.
        RuntimeError: the scan kernel fails its self-test at this stage's length and precision.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    plan = BatchPlan(
        shards,
        seed=config.seed,
        batch_size=config.batch_size,
        image_ratio=config.image_ratio,
        text_dropout=config.text_dropout,
    )
    identity = {"plan": plan.state(), "architecture": digest(architecture.to_dict()), "tae": shards.format.tae_digest}
    check_kernels(config, architecture, shards, device)
    model, ema = _build(config, architecture, init, device)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, config.beta2))
    meta = load_newest(output / "checkpoints", model, ema, optimizer)
    if meta and meta["identity"] != identity:
        raise ValueError(f"--output: the checkpoint in {output} was trained on other shards or another model")
    start = meta["step"] if meta else 0
    if rank == 0 and start:
        log.info("resuming after step %d", start)

    loader = LatentLoader(shards, plan, rank, world, start_step=start, stop_step=config.steps)
    window = Window(device)
    skips = 0
    clock = time.perf_counter()
    for batch in loader:
        step = batch.step
        window.seconds["data"] += time.perf_counter() - clock
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        _backward(model, batch, config, world, device, window)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if torch.isfinite(norm):
            optimizer.step()
            ema.update(model)
            skips = 0
        else:
            skips += 1
            log.warning("step %d skipped: gradient norm %s; samples %s", step, norm.item(), batch.keys)
            if skips >= config.max_skips:
                raise FloatingPointError(
                    f"{skips} non-finite gradients in a row up to step {step}; lower fit.lr or look at these samples"
                )
        optimizer.zero_grad()
        window.end_of_step(norm, learning_rate(config, step), skips > 0, batch)
        window.seconds["total"] += time.perf_counter() - clock
        clock = time.perf_counter()

        done = step + 1
        last = done == config.steps
        if done % config.log_every == 0 or last:
            hooks.log(done, window.reduce())
        if last or (config.sample_every and done % config.sample_every == 0):
            with ema.applied_to(model):
                hooks.sample(done, model)
        if last or done % config.checkpoint_every == 0:
            path = save_checkpoint(
                output / "checkpoints", done, model, ema, optimizer, {"identity": identity}, config.keep_checkpoints
            )
            window.seconds["checkpoint"] += time.perf_counter() - clock
            hooks.saved(done, path)
            if not last and hooks.stop():
                return model, ema, False
        clock = time.perf_counter()
    return model, ema, True


def check_kernels(config: FitConfig, architecture: DenoiserConfig, shards: ShardIndex, device: torch.device) -> None:
    """Compare the scan kernel with itself in pieces, forward and backward, at the longest sequence of this stage."""
    if architecture.mixer != "mate" or architecture.ma_branch != "mamba2":
        return
    grids = [architecture.token_grid(bucket.bucket.latent_shape()[1:]) for bucket in shards.buckets.values()]
    grid = max(grids, key=math.prod)
    review = math.prod(review_grid(grid, architecture.review_pool)) if architecture.review_tokens else 0
    result = self_test(
        length=math.prod(grid) + (1 + architecture.review_both_passes) * review,
        heads=int(architecture.ssm_expand * architecture.width) // architecture.ssm_head_dim,
        head_dim=architecture.ssm_head_dim,
        state=architecture.mamba2_state,
        backend=architecture.ssd_backend,
        dtype=getattr(torch, config.precision),
        device=device,
        chunk=architecture.ssd_chunk,
    )
    if dist.get_rank() == 0:
        log.info("%s", result)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices with weight decay; vectors, tables of positions and modulation without."""
    decayed = [p for n, p in model.named_parameters() if p.ndim >= 2 and "positions" not in n and "modulation" not in n]
    chosen = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _build(config: FitConfig, architecture: DenoiserConfig, init: Path | None, device: torch.device):
    """The sharded model and its EMA, with the weights of `init` (positions resized) or seeded random ones."""
    torch.manual_seed(config.seed)
    model = Denoiser(architecture)
    averaged = None
    if init is not None:
        _load_resized(model, init, "raw")
        averaged = Denoiser(architecture)
        _load_resized(averaged, init, "ema")
    shard(model.to(device), config)
    ema = EMA(model, config.ema_decay)
    if averaged is not None:
        shard(averaged.to(device), config)
        ema.weights = {name: p.detach().clone() for name, p in averaged.named_parameters()}
    return model, ema


def _load_resized(model: Denoiser, init: Path, weights: str) -> None:
    """Load an earlier stage's weights; its position tables are stretched to this stage's size."""
    before, state = read_weights(init, weights)
    earlier = Denoiser(before)
    earlier.load_state_dict(state)
    latent_shape = tuple(n * p for n, p in zip(model.config.position_sizes, model.config.patch))
    if earlier.config.position_sizes != model.config.position_sizes:
        earlier.resize_positions(latent_shape)
    model.load_state_dict(earlier.state_dict())


def shard(model: Denoiser, config: FitConfig) -> None:
    """FSDP2 over all ranks, layer by layer; with checkpointing and compilation per layer when asked."""
    from torch.distributed._composable import checkpoint  # keeps parameter names, unlike the wrapper module
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for layer in model.layers:
        if config.activation_checkpointing:
            checkpoint(layer)
        if config.compile:
            layer.compile()
    policy = MixedPrecisionPolicy()
    if config.precision == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _backward(model, batch: LatentBatch, config: FitConfig, world: int, device: torch.device, window: Window) -> None:
    """Gradients of the mean loss over the global batch, micro-batch by micro-batch."""
    count = batch.latent_BCTHW.shape[0]
    size = config.micro_batch or count
    for first in range(0, count, size):
        part = slice(first, first + size)
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(first + size >= count)
        data = batch.latent_BCTHW[part].to(device)
        noise, t = (x.to(device) for x in draw_noise_and_times(batch.seeds[part], data.shape[1:]))
        text = [(embedding[part].to(device), mask[part].to(device)) for embedding, mask in batch.text]
        point, target = interpolate(data, noise, t)
        loss_B = per_sample_loss(model(point, t, text), target)
        # Ranks' gradients are averaged: times world / batch makes that the mean over the global batch.
        (loss_B.sum() * (world / config.batch_size)).backward()
        window.add(loss_B.detach(), t, batch.bucket.media == "image")


class Window:
    """What is reported: sums over the steps since the last report, added up over ranks only then."""

    def __init__(self, device: torch.device):
        self._device = device
        self._reset()

    def _reset(self) -> None:
        # Rows: all, image, video, then quarters of t. Columns: sum of losses, number of samples.
        self._sums = torch.zeros(3 + NOISE_LEVELS, 2, dtype=torch.float64, device=self._device)
        self.seconds = {"data": 0.0, "total": 0.0, "checkpoint": 0.0}
        self._steps = self._skipped = self._samples = self._cells = 0
        self._norm = self._lr = 0.0
        self._replaced = 0

    def add(self, loss_B: Tensor, t_B: Tensor, image: bool) -> None:
        pairs = torch.stack([loss_B.double(), torch.ones_like(loss_B, dtype=torch.float64)], dim=1)
        self._sums[0] += pairs.sum(0)
        self._sums[1 if image else 2] += pairs.sum(0)
        level = (t_B * NOISE_LEVELS).long().clamp_max(NOISE_LEVELS - 1) + 3
        self._sums.index_add_(0, level, pairs)

    def end_of_step(self, norm: Tensor, lr: float, skipped: bool, batch: LatentBatch) -> None:
        self._steps += 1
        self._skipped += skipped
        self._norm, self._lr = norm.item(), lr
        self._samples += batch.latent_BCTHW.shape[0]
        self._cells += batch.latent_BCTHW.shape[0] * math.prod(batch.latent_BCTHW.shape[2:])
        self._replaced += len(batch.replaced)

    def reduce(self) -> dict[str, float]:
        """Metrics over all ranks since the last call; called by every rank."""
        counts = torch.tensor([self._samples, self._cells, self._replaced], dtype=torch.float64, device=self._device)
        dist.all_reduce(self._sums)
        dist.all_reduce(counts)
        names = ["loss", "loss/image", "loss/video", *(f"loss/t{i}" for i in range(NOISE_LEVELS))]
        metrics = {n: (s / c).item() for n, (s, c) in zip(names, self._sums) if c > 0}
        seconds = max(self.seconds["total"] + self.seconds["checkpoint"], 1e-9)
        metrics |= {
            "grad_norm": self._norm,
            "lr": self._lr,
            "samples_per_s": counts[0].item() / seconds,
            "latent_cells_per_s": counts[1].item() / seconds,
            "step_s": self.seconds["total"] / self._steps,
            "data_wait_pct": 100 * self.seconds["data"] / seconds,
            "checkpoint_pct": 100 * self.seconds["checkpoint"] / seconds,
            "skipped_steps": self._skipped,
            "replaced_samples": counts[2].item(),
        }
        if self._device.type == "cuda":
            metrics["memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        self._reset()
        return metrics
