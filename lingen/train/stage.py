"""One stage from start to end: data, model and observers put together around the training loop. No Ray, no MLflow."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lingen.data.batch_plan import BatchPlan
from lingen.data.loader import LatentLoader
from lingen.data.selection import select
from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import digest, to_plain
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.pretrained import read_about
from lingen.model.review import review_grid
from lingen.ssd import self_test
from lingen.train.checkpoint import Checkpointer, Retention
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.hand_over import build_model, position_scale
from lingen.train.loop import Trainer
from lingen.train.metrics import NOISE_LEVELS, MetricsWindow
from lingen.train.observers.checkpoints import PublishCheckpoints, SaveCheckpoints
from lingen.train.observers.guard import Guard
from lingen.train.observers.lockstep import Lockstep
from lingen.train.observers.observer import Observer, Observers
from lingen.train.observers.preemption import Notice
from lingen.train.observers.reports import Log, Reports
from lingen.train.observers.samples import Samples
from lingen.train.observers.skips import Skips
from lingen.train.observers.stop_requests import StopRequests, no_notice
from lingen.train.observers.validation import HeldOutValidation, Validation
from lingen.train.observers.watchdog import Watchdog
from lingen.train.optimizer import build_optimizer
from lingen.train.ranks import own_device

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """The caller's functions. Every rank calls them at the same steps; all but rank 0 may ignore the content."""

    log: Log = lambda step, metrics: None
    """metrics are due"""
    sample: Callable[[int, Denoiser], None] = lambda step, model: None
    """samples are due; the model has its averaged weights"""
    saved: Callable[[int, Path], None] = lambda step, path: None
    """a checkpoint is published, some steps after the one it is of"""
    notice: Callable[[], Notice] = no_notice
    """asked at every step, on every rank by itself; all ranks obey the strongest answer"""
    notice_together: Callable[[], Notice] = no_notice
    """asked a few times a minute, on all ranks at the same step: it may be a collective"""


def fit(
    config: FitConfig,
    architecture: DenoiserConfig,
    shards: ShardIndex,
    output: Path,
    init: Path | None = None,
    hooks: Hooks = Hooks(),
    clips: Collection[str] | None = None,
    about: dict[str, Any] | None = None,
    observers: Sequence[Observer] = (),
) -> tuple[Denoiser, EMA, bool]:
    """Train one stage to its end, in an initialised process group (one rank is enough).

    Args:
        output: the run's folder; training resumes from the newest checkpoint in it.
        init: exported model to start from when there is no checkpoint; None: random weights.
        clips: clip_ids of a reviewed set that training is limited to (quality tuning); validation is not.
        about: noted in every checkpoint's meta.json.
        observers: watch beside our own.

    Returns:
        (model, its average, finished); finished is False when a hook asked to stop.

    Raises:
        ValueError: the checkpoint in `output` was made with other data or settings.
        FloatingPointError: updates were skipped again and again, also after rewinds (observers/guard.py).
        CheckpointFailed: a checkpoint could not be written.
        Stalled: ranks waited longer than `hang_timeout` for one of them.
        RuntimeError: the scan kernel fails its self-test at this stage's length and precision.
    """
    device = own_device()
    with Watchdog(output, config.hang_timeout) as watchdog:
        train, held_out = select(shards, config.held_out, clips)
        plan = batch_plan(config, train)
        check_kernels(config, architecture, shards, device)
        scale = position_scale(read_about(init), shards) if init else 1.0
        model, ema = build_model(config, architecture, init, device, scale)
        optimizer = build_optimizer(model, config)
        retention = Retention(config.keep_checkpoints, config.keep_every)
        checkpointer = Checkpointer(output / "checkpoints", model, ema, optimizer, retention, config.hang_timeout)
        guard, metrics = Guard(config.guard), MetricsWindow(architecture, config.precision, device)
        meta = _meta(config, architecture, shards, plan, clips, about or {})
        start = _resume(checkpointer, meta["identity"], guard, metrics)
        lockstep, publish = Lockstep(config.hang_timeout), PublishCheckpoints(checkpointer, hooks.saved)
        watching = Observers([
            watchdog,
            lockstep,
            publish,
            Skips(guard, output, checkpointer, publish, lockstep),
            StopRequests(hooks.notice, hooks.notice_together),
            *_validation(config, held_out, model, ema, device, hooks.log),
            Reports(config.log_every, metrics, hooks.log),
            Samples(config.sample_every, model, ema, hooks.sample),
            SaveCheckpoints(config.checkpoint_every, checkpointer, publish, guard, metrics, meta),
            *observers,
        ])  # fmt: skip
        rank, world = dist.get_rank(), dist.get_world_size()
        loader = LatentLoader(train, plan, rank, world, start_step=start, stop_step=config.steps)
        return model, ema, Trainer(config, model, ema, optimizer, watching, device).run(loader, start)


def batch_plan(config: FitConfig, train: ShardIndex) -> BatchPlan:
    """The samples of every step.

    Raises:
        ValueError: `train` cannot be mixed as the configuration asks.
    """
    return BatchPlan(
        train,
        seed=config.seed,
        batch_size=config.batch_size,
        image_ratio=config.image_ratio,
        text_dropout=config.text_dropout,
    )


def check_kernels(config: FitConfig, architecture: DenoiserConfig, shards: ShardIndex, device: torch.device) -> None:
    """Compare the scan kernel with itself in pieces, forward and backward, at the longest sequence of this stage.

    Raises:
        RuntimeError: the results differ.
    """
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


def _meta(
    config: FitConfig,
    architecture: DenoiserConfig,
    shards: ShardIndex,
    plan: BatchPlan,
    clips: Collection[str] | None,
    about: dict[str, Any],
) -> dict[str, Any]:
    """The constant part of a checkpoint's meta.json; "identity": what it must have been trained on to be resumed."""
    identity = {
        "plan": plan.state(),
        "shards": {name: bucket.digest for name, bucket in shards.buckets.items()},
        "selection": digest([config.held_out, clips and sorted(clips)]),
        "architecture": digest(architecture.to_dict()),
        "tae": shards.format.tae_digest,
    }
    return {"identity": identity, "fit": to_plain(config), "about": about}


def _resume(checkpointer: Checkpointer, identity: dict[str, Any], guard: Guard, metrics: MetricsWindow) -> int:
    """Load the newest checkpoint, if there is one. Returns the number of steps done.

    Raises:
        ValueError: it was trained on other data or with other settings.
    """
    meta = checkpointer.load_newest()
    if meta is None:
        return 0
    if meta["identity"] != identity:
        folder = checkpointer.folder.parent
        raise ValueError(f"--output: the checkpoint in {folder} was trained on other shards or another model")
    guard.load_state(meta["guard"])
    if meta.get("window"):
        metrics.load_state(meta["window"])
    if dist.get_rank() == 0:
        log.info("resuming after step %d", meta["step"])
    return meta["step"]


def _validation(
    config: FitConfig, held_out: ShardIndex | None, model: Denoiser, ema: EMA, device: torch.device, report: Log
) -> list[Observer]:
    """The configured validation; none when no sample is held out."""
    if not config.validate_every:
        return []
    samples = config.validation_samples
    validation = Validation(held_out, samples, NOISE_LEVELS, config.micro_batch) if held_out else None
    if not validation:
        if dist.get_rank() == 0:
            log.warning("no file is held out by fit.held_out %s: there is no validation", config.held_out)
        return []
    return [HeldOutValidation(config.validate_every, validation, model, ema, device, report)]
