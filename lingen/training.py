"""Training one stage: flow matching on latents, sharded by FSDP2, exact to the step. No Ray and no MLflow here.

A step is a function of (seed, step, weights): the plan names the samples, each sample carries the seed of its noise and
time, and gradients are averaged over the global batch, whatever the number of workers.

Legend: B samples of this rank, C channels, T/H/W latent axes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import resource
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lingen.checkpoint import Checkpointer, Retention, regular_steps, step_of
from lingen.denoiser import Denoiser, DenoiserConfig
from lingen.ema import EMA
from lingen.export import read_weights
from lingen.flops import peak_flops, training_flops
from lingen.flow import draw_noise_and_times, interpolate, per_sample_loss
from lingen.guard import SKIPPED, Guard, GuardConfig, SkippedSteps
from lingen.loader import LatentBatch, LatentLoader
from lingen.lockstep import Lockstep
from lingen.manifest import digest, to_plain
from lingen.plan import BatchPlan
from lingen.preemption import Notice
from lingen.review import review_grid
from lingen.schedule import SCHEDULES, learning_rate
from lingen.selection import select
from lingen.shard_index import ShardIndex
from lingen.ssd import self_test
from lingen.validation import Validation
from lingen.watchdog import Watchdog

log = logging.getLogger(__name__)

ASK_TOGETHER_S = 10.0  # seconds between calls of Hooks.notice_together
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
    """learning rate at the last step of a linear or cosine schedule"""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """how the learning rate falls from lr to lr_end"""
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
    average_last: int = 0
    """at the end, average the weights of so many steps evenly (model averaging) instead of exponentially; 0: never"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the model's arithmetic; weights, gradients' sums and optimizer state stay float32"""
    activation_checkpointing: bool = False
    """recompute each layer's activations in the backward pass: memory for a third more time"""
    compile: bool = False
    """torch.compile every layer"""
    shard_group: int = 0
    """workers that share one copy of the weights, gradients and optimizer state, such as the GPUs of a node (copies are
    kept alike across groups); 0: all workers share one copy"""
    seed: int = 0
    """of initial weights, sample order, noise and times"""
    checkpoint_every: int = 1000
    """steps between checkpoints; one is saved at the end in any case"""
    keep_checkpoints: int = 2
    """how many of the newest stay, beside one that a notice to stop asked for"""
    keep_every: int = 0
    """checkpoints at multiples of this many steps stay for good; 0: none do"""
    log_every: int = 10
    """steps between reported metrics (means over those steps)"""
    sample_every: int = 0
    """steps between sample videos; 0: at the end only"""
    held_out: float = 0.001
    """share of the files that is never trained on, in any stage; chosen by the files' hashes"""
    validate_every: int = 0
    """steps between validations on held-out samples (at the start and the end as well); 0: never"""
    validation_samples: int = 64
    """held-out samples of each medium that a validation takes"""
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)
    """which updates are skipped"""
    hang_timeout: float = 1800.0
    """seconds without progress after which training ends with an error that names the rank that is behind"""

    def __post_init__(self):
        if self.keep_every < 0:
            raise ValueError(f"fit.keep_every: must not be negative, got {self.keep_every}")
        if not self.hang_timeout > 0:
            raise ValueError(f"fit.hang_timeout: must be positive, got {self.hang_timeout}")
        at_least_one = ("steps", "batch_size", "checkpoint_every", "keep_checkpoints", "log_every")
        for name in (*at_least_one, "validation_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name}: must be at least 1, got {getattr(self, name)}")
        if self.shard_group < 0:
            raise ValueError(f"fit.shard_group: must be 0 or more workers, got {self.shard_group}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"fit.schedule: {self.schedule} is unknown; use {', '.join(SCHEDULES)}")
        if not 0 <= self.average_last <= self.steps:
            raise ValueError(f"fit.average_last: {self.average_last} is not between 0 and the stage's steps")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"fit.held_out: must be in [0, 1), got {self.held_out}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"fit.ema_decay: must be in [0, 1), got {self.ema_decay}")
        if not self.lr > 0 or self.lr_end < 0:
            raise ValueError(f"fit.lr: must be positive (and lr_end not negative), got {self.lr} and {self.lr_end}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the caller wants to hear. Every rank calls them at the same steps; all but rank 0 may ignore the content."""

    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None
    batch: Callable[[LatentBatch], None] = lambda batch: None
    """before a step, with this rank's share of its samples"""
    lap: Callable[[str], None] = lambda part: None
    """at the end of each part of a step: data, prepare, forward, backward, optimizer, validate, report, sample,
    checkpoint"""
    sample: Callable[[int, Denoiser], None] = lambda step, model: None
    saved: Callable[[int, Path], None] = lambda step, path: None
    """a checkpoint is published; some steps after the one it is of"""
    notice: Callable[[], Notice] = lambda: Notice.NONE
    """asked every step on every rank by itself; what any rank answers, all do"""
    notice_together: Callable[[], Notice] = lambda: Notice.NONE
    """asked some times a minute, on all ranks at the same step: it may be a collective"""


def fit(
    config: FitConfig,
    architecture: DenoiserConfig,
    shards: ShardIndex,
    output: Path,
    init: Path | None = None,
    hooks: Hooks = Hooks(),
    clips: Collection[str] | None = None,
    about: dict | None = None,
) -> tuple[Denoiser, EMA, bool]:
    """Train one stage to its end, from `init` (an exported model) or from the newest checkpoint in `output`.

    `clips`, clip_ids of a reviewed set, limits training to these (quality tuning); validation is on all held out.
    Needs an initialised process group (one rank is enough; under torchrun it is the launcher's). Returns (model, EMA,
    finished): finished is False when a hook asked to stop. `about` is noted in every checkpoint's meta.json.

    Raises:
        ValueError: the checkpoint in `output` was made with other data or settings.
        FloatingPointError: updates were skipped again and again, whatever was done (lingen.guard).
        CheckpointFailed: a checkpoint could not be written.
        Stalled: ranks waited longer than `hang_timeout` for one of them.
        RuntimeError: the scan kernel fails its self-test at this stage's length and precision.
    """
    with Watchdog(output, config.hang_timeout) as watchdog:
        return _fit(config, architecture, shards, output, init, hooks, clips, about or {}, watchdog)


def _fit(config, architecture, shards, output, init, hooks, clips, about, watchdog) -> tuple[Denoiser, EMA, bool]:
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    train, held_out = select(shards, config.held_out, clips)
    plan = batch_plan(config, train)
    identity = {
        "plan": plan.state(),
        "shards": {name: bucket.digest for name, bucket in shards.buckets.items()},
        "selection": digest([config.held_out, clips and sorted(clips)]),
        "architecture": digest(architecture.to_dict()),
        "tae": shards.format.tae_digest,
    }
    check_kernels(config, architecture, shards, device)
    model, ema = _build(config, architecture, init, device)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, config.beta2), fused=True
    )
    retention = Retention(config.keep_checkpoints, config.keep_every)
    checkpointer = Checkpointer(output / "checkpoints", model, ema, optimizer, retention, config.hang_timeout)
    lockstep = Lockstep(config.hang_timeout)
    skips = Skips(config.guard, output, checkpointer, lockstep)
    meta = checkpointer.load_newest()
    if meta:
        if meta["identity"] != identity:
            raise ValueError(f"--output: the checkpoint in {output} was trained on other shards or another model")
        skips.guard.load_state(meta["guard"])
    start = meta["step"] if meta else 0
    if rank == 0 and start:
        log.info("resuming after step %d", start)

    validate = validation(config, held_out, model, ema, device)
    if start == 0 and (before := validate(0)):
        hooks.log(0, before)
    loader = LatentLoader(train, plan, rank, world, start_step=start, stop_step=config.steps)
    window = Window(architecture, config.precision, device)
    if meta and meta.get("window"):
        window.load_state(meta["window"])
    asked = clock = time.perf_counter()
    watchdog.at(start, "data")
    for batch in loader:
        step = batch.step
        watchdog.at(step, "step")
        window.seconds["data"] += time.perf_counter() - clock
        hooks.batch(batch)
        hooks.lap("data")
        ask = rank == 0 and time.perf_counter() - asked > ASK_TOGETHER_S
        lockstep.say(hooks.notice(), ask, checkpointer.failed, checkpointer.busy)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        losses = _backward(model, batch, config, world, device, window, hooks.lap)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        reason = skips.guard.reason_to_skip(norm.item())
        if reason is None:
            optimizer.step()
            ema.update(model)
        else:
            skips.record(batch, norm.item(), losses.tolist(), reason)
        optimizer.zero_grad()
        notice, ask, failed, busy = lockstep.hear()
        window.end_of_step(norm, learning_rate(config, step), reason is not None, batch)
        hooks.lap("optimizer")
        window.seconds["total"] += time.perf_counter() - clock
        clock = time.perf_counter()

        done = step + 1
        last = done == config.steps
        watchdog.at(step, "publish")
        if failed or not busy:
            _saved(checkpointer, hooks)
        if skips.guard.wants_rewind:
            _saved(checkpointer, hooks)
            skips.rewind(step)
        if ask:
            asked = time.perf_counter()
            notice = max(notice, hooks.notice_together())
        watchdog.at(step, "validate")
        validated = validate(done)
        hooks.lap("validate")
        watchdog.at(step, "log")
        metrics = (window.reduce() if done % config.log_every == 0 or last else {}) | validated
        if metrics:
            hooks.log(done, metrics)
        hooks.lap("report")
        watchdog.at(step, "sample")
        if last or (config.sample_every and done % config.sample_every == 0):
            with ema.applied_to(model):
                hooks.sample(done, model)
        hooks.lap("sample")
        watchdog.at(step, "checkpoint")
        regular = done % config.checkpoint_every == 0 and skips.guard.calm
        if last or regular or notice:
            began = time.perf_counter()
            _saved(checkpointer, hooks)
            meta = {"identity": identity, "guard": skips.guard.state(), "window": window.state()}
            meta |= {"fit": to_plain(config), "about": about}
            checkpointer.save(done, meta, regular)
            if last or notice == Notice.STOP:
                _saved(checkpointer, hooks)
            window.seconds["checkpoint"] += time.perf_counter() - began
        if notice == Notice.STOP and not last:
            if rank == 0:
                log.info("asked to stop: saved after step %d; the same command goes on from there", done)
            return model, ema, False
        hooks.lap("checkpoint")
        clock = time.perf_counter()
        watchdog.at(done, "data")
    return model, ema, True


def batch_plan(config: FitConfig, train: ShardIndex) -> BatchPlan:
    """Which samples every step sees. ValueError: `train` cannot be mixed as the configuration says."""
    return BatchPlan(
        train,
        seed=config.seed,
        batch_size=config.batch_size,
        image_ratio=config.image_ratio,
        text_dropout=config.text_dropout,
    )


def validation(
    config: FitConfig, held_out: ShardIndex | None, model: Denoiser, ema: EMA, device: torch.device
) -> Callable[[int], dict[str, float]]:
    """validate(step) -> losses of the averaged weights when they are due after that step, else nothing."""
    if not config.validate_every:
        return lambda step: {}
    measure = Validation(held_out, config.validation_samples, NOISE_LEVELS, config.micro_batch) if held_out else ()
    if not len(measure):
        if dist.get_rank() == 0:
            log.warning("no file is held out by fit.held_out %s: there is no validation", config.held_out)
        return lambda step: {}

    def validate(step: int) -> dict[str, float]:
        if step % config.validate_every and step != config.steps:
            return {}
        with ema.applied_to(model):
            return measure(model, device)

    return validate


def _saved(checkpointer: Checkpointer, hooks: Hooks) -> None:
    """Wait for the checkpoint in flight, if there is one, and say that it is there."""
    if path := checkpointer.wait():
        hooks.saved(step_of(path), path)


class Skips:
    """The guard's decisions carried out: recorded with their samples, and rewound when there are too many in a row."""

    def __init__(self, config: GuardConfig, output: Path, checkpointer: Checkpointer, lockstep: Lockstep):
        self.guard = Guard(config)
        self._checkpointer, self._lockstep, self._output = checkpointer, lockstep, output
        self._file = SkippedSteps(output)
        self._row: list[dict] = []  # the skips in a row so far

    def record(self, batch: LatentBatch, norm: float, losses: list[float], reason: str) -> None:
        """Note a skipped step with all samples of the global batch; called by every rank with its own."""
        mine = list(zip(batch.keys, losses))
        samples = [{"key": k, "loss": _json_number(x)} for part in self._lockstep.gather(mine) for k, x in part]
        entry = {"event": "skip", "step": batch.step, "reason": reason, "norm": _json_number(norm)}
        entry |= {"bucket": batch.bucket.name, "samples": samples}
        self._row = [*(self._row if self.guard.skips > 1 else []), entry]
        if dist.get_rank() == 0:
            self._file.add(entry)
            log.warning("step %d is skipped: %s; samples: %s", batch.step, reason, _suspects([entry]))

    def rewind(self, step: int) -> None:
        """Take the weights back to the newest regular checkpoint, or the one before it after a rewind without effect.

        Raises:
            FloatingPointError: there is none, or there were rewinds enough; names samples.
        """
        before = self.guard.rewound_to
        found = [s for s in regular_steps(self._checkpointer.folder) if before is None or s < before]
        if not found or not self.guard.may_rewind:
            tried = f"after {self.guard.rewinds} rewinds" if self.guard.rewinds else "and no checkpoint to rewind to"
            raise FloatingPointError(
                f"{self.guard.skips} updates in a row were skipped up to step {step}, {tried} "
                f"({self._row[-1]['reason']}). Look at these samples: {_suspects(self._row)} "
                f"(all are in {self._output / SKIPPED}); or lower fit.lr, or raise fit.guard.spike_factor"
            )
        skips = self.guard.skips
        state = self._checkpointer.load(found[-1])["guard"]
        self.guard.rewound(state, found[-1])
        if dist.get_rank() == 0:
            self._file.add({"event": "rewind", "step": step, "to_checkpoint": found[-1]})
            log.warning(
                "%d updates in a row were skipped: weights are those of step %d again, the plan goes on after step %d",
                skips, found[-1], step,
            )  # fmt: skip


def _suspects(entries: list[dict], count: int = 8) -> str:
    """The samples with the least finite or largest losses."""
    samples = {s["key"]: s["loss"] for entry in entries for s in entry["samples"]}
    worst = sorted(samples, key=lambda k: -samples[k] if isinstance(samples[k], float) else -math.inf)
    more = f" and {len(worst) - count} more" if len(worst) > count else ""
    return ", ".join(f"{k} (loss {samples[k]})" for k in worst[:count]) + more


def _json_number(value: float) -> float | str:
    """JSON has no nan and no infinity."""
    return value if math.isfinite(value) else str(value)


def grown(architecture: DenoiserConfig, shards: ShardIndex) -> DenoiserConfig:
    """The architecture with position tables as large as these shards need; they never shrink."""
    grids = [architecture.token_grid(bucket.latent_shape[1:]) for bucket in shards.buckets.values()]
    sizes = tuple(max(axis) for axis in zip(architecture.position_sizes, *grids))
    return dataclasses.replace(architecture, position_sizes=sizes)


def check_kernels(config: FitConfig, architecture: DenoiserConfig, shards: ShardIndex, device: torch.device) -> None:
    """Compare the scan kernel with itself in pieces, forward and backward, at the longest sequence of this stage."""
    if architecture.mixer != "mate" or architecture.ma_branch != "mamba2":
        return
    grids = [architecture.token_grid(bucket.latent_shape[1:]) for bucket in shards.buckets.values()]
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
    uniform_after = config.steps - config.average_last if config.average_last else None
    ema = EMA(model, config.ema_decay, uniform_after=uniform_after)
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


def mesh_shape(world: int, shard_group: int) -> tuple[int, ...]:
    """(ranks,) that share one copy, or (groups, ranks in a group): FSDP2 shards along the last axis, copies the first.

    A number of ranks that the group does not divide (a node was lost) shares one copy: slower, but it always fits.
    """
    if not shard_group or world % shard_group:
        if shard_group and dist.get_rank() == 0:
            log.warning("fit.shard_group: %d does not divide %d workers; all share one copy", shard_group, world)
        return (world,)
    return world // shard_group, shard_group


def shard(model: Denoiser, config: FitConfig) -> None:
    """FSDP2 over all ranks or groups of them, layer by layer; checkpointing and compilation per layer when asked."""
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
    shape = mesh_shape(dist.get_world_size(), config.shard_group)
    names = ("copies", "shards")[-len(shape) :]
    mesh = init_device_mesh(next(model.parameters()).device.type, shape, mesh_dim_names=names)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _backward(
    model,
    batch: LatentBatch,
    config: FitConfig,
    world: int,
    device: torch.device,
    window: Window,
    lap: Callable[[str], None],
) -> Tensor:
    """Gradients of the mean loss over the global batch, micro-batch by micro-batch; returns this rank's losses."""
    losses = []
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
        lap("prepare")
        loss_B = per_sample_loss(model(point, t, text), target)
        lap("forward")
        # Ranks' gradients are averaged: times world / batch makes that the mean over the global batch.
        (loss_B.sum() * (world / config.batch_size)).backward()
        losses.append(loss_B.detach())
        window.add(losses[-1], t, batch.bucket.media == "image")
        lap("backward")
    return torch.cat(losses)


class Window:
    """What is reported: sums over the steps since the last report, added up over ranks only then."""

    def __init__(self, architecture: DenoiserConfig, precision: str, device: torch.device):
        self._architecture, self._device = architecture, device
        known = device.type == "cuda" and precision == "bfloat16"
        self._peak = peak_flops(torch.cuda.get_device_name(device)) if known else None
        self._reset()

    def _reset(self) -> None:
        # Rows: all, image, video, then quarters of t. Columns: sum of losses, number of samples.
        self._sums = torch.zeros(3 + NOISE_LEVELS, 2, dtype=torch.float64, device=self._device)
        # Samples, their tokens, those replaced, FLOPs; known here, so that no step waits for a copy to the device.
        self._counts = torch.zeros(4, dtype=torch.float64)
        self.seconds = {"data": 0.0, "total": 0.0, "checkpoint": 0.0}
        self._steps = self._skipped = 0
        self._norm = self._lr = 0.0

    def add(self, loss_B: Tensor, t_B: Tensor, image: bool) -> None:
        finite = loss_B.isfinite()  # the guard deals with the others; one would blank the whole window's mean
        pairs = torch.stack([loss_B.double().where(finite, 0.0), finite.double()], dim=1)
        self._sums[0] += pairs.sum(0)
        self._sums[1 if image else 2] += pairs.sum(0)
        level = (t_B * NOISE_LEVELS).long().clamp_max(NOISE_LEVELS - 1) + 3
        self._sums.index_add_(0, level, pairs)

    def end_of_step(self, norm: Tensor, lr: float, skipped: bool, batch: LatentBatch) -> None:
        self._steps += 1
        self._skipped += skipped
        self._norm, self._lr = norm.item(), lr
        count, shape = batch.latent_BCTHW.shape[0], tuple(batch.latent_BCTHW.shape[2:])
        tokens, flops = count * math.prod(self._architecture.token_grid(shape)), 0
        if self._peak:
            text = sum(mask.shape[1] for _, mask in batch.text)
            flops = count * training_flops(self._architecture, shape, text)
        self._counts += torch.tensor([count, tokens, len(batch.replaced), flops], dtype=torch.float64)

    def reduce(self) -> dict[str, float]:
        """Metrics over all ranks since the last call; called by every rank."""
        sums, counts = self._of_all_ranks()
        samples, tokens, replaced, flops = counts.tolist()
        names = ["loss", "loss/image", "loss/video", *(f"loss/t{i}" for i in range(NOISE_LEVELS))]
        metrics = {n: (s / c).item() for n, (s, c) in zip(names, sums) if c > 0}
        seconds = max(self.seconds["total"] + self.seconds["checkpoint"], 1e-9)
        metrics |= {
            "grad_norm": self._norm,
            "lr": self._lr,
            "samples_per_s": samples / seconds,
            "tokens_per_s": tokens / seconds,
            "step_s": self.seconds["total"] / self._steps,
            "data_wait_pct": 100 * self.seconds["data"] / seconds,
            "checkpoint_stall_pct": 100 * self.seconds["checkpoint"] / seconds,
            "skipped_steps": self._skipped,
            "replaced_samples": replaced,
        }
        if self._peak:
            metrics["mfu_pct"] = 100 * flops / seconds / (self._peak * dist.get_world_size())
        if self._device.type == "cuda":
            metrics["memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        else:
            metrics["memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        self._reset()
        return metrics

    def state(self) -> dict[str, Any] | None:
        """What has been added up since the last report, over all ranks, for a checkpoint between two; called by every
        rank. None right after a report."""
        if not self._steps:
            return None
        sums, counts = self._of_all_ranks()
        here = {"steps": self._steps, "skipped": self._skipped, "seconds": dict(self.seconds)}
        return here | {"sums": sums.tolist(), "counts": counts.tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from there: the next report is of all its steps, those before the restart too."""
        self._steps, self._skipped, self.seconds = state["steps"], state["skipped"], state["seconds"]
        if dist.get_rank() == 0:  # the sums are of all ranks
            self._sums += self._sums.new_tensor(state["sums"])
            self._counts += self._counts.new_tensor(state["counts"])

    def _of_all_ranks(self) -> tuple[Tensor, Tensor]:
        sums, counts = self._sums.clone(), self._counts.to(self._device, copy=True)
        dist.all_reduce(sums)
        dist.all_reduce(counts)
        return sums, counts
