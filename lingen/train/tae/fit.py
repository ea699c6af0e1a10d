"""The training of a TAE from start to end: data, model and observers put together around its loop."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from lingen.tae.config import TAE_PRESETS
from lingen.tae.tae import TAE
from lingen.train.checkpoint import Checkpointer
from lingen.train.ema import EMA
from lingen.train.observers.lockstep import Lockstep
from lingen.train.observers.observer import Observer, Observers, Step
from lingen.train.observers.preemption import Notice
from lingen.train.observers.reports import Log, Reports
from lingen.train.observers.samples import Samples
from lingen.train.observers.stop_requests import StopRequests, no_notice
from lingen.train.observers.validation import HeldOutValidation
from lingen.train.ranks import own_device
from lingen.train.tae.config import TAEFitConfig
from lingen.train.tae.crops import Crops, Segments, first_crops, spread, to_tensor
from lingen.train.tae.metrics import TAEMetrics
from lingen.train.tae.objective import Objective
from lingen.train.tae.trainer import TAETrainer
from lingen.train.tae.validation import Reconstruction

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TAEHooks:
    """The caller's functions."""

    log: Log = lambda step, metrics: None
    """metrics are due; called by rank 0, at most once a step"""
    pictures: Callable[[int, list[np.ndarray]], None] = lambda step, videos: None
    """held-out segments, if any, beside their reconstructions, uint8 (T, H, 2 W, 3); called by rank 0"""
    notice: Callable[[], Notice] = no_notice
    """asked at every step, on every rank by itself; all ranks obey the strongest answer"""


def fit_tae(
    config: TAEFitConfig,
    videos: Segments,
    images: Segments,
    held_out: Segments,
    output: Path,
    hooks: TAEHooks = TAEHooks(),
) -> tuple[TAE, dict[str, float], bool]:
    """Train a TAE to the end. Needs an initialised process group; one rank is enough.

    Args:
        videos, images: segments to train on; one of the two may be empty.
        held_out: segments to validate on.
        output: the run's folder; training resumes from the newest checkpoint in it.

    Returns:
        (the TAE with averaged weights and measured shift and scale, the last validation, finished); finished is False
        when `hooks.notice` asked to stop: then the checkpoint is the only result.
    """
    device, first = own_device(), dist.get_rank() == 0
    objective = _build(config, videos or images).to(device)
    tae = objective.tae
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    ema = EMA(tae, config.ema_decay)
    checkpointer = Checkpointer(output / "checkpoints", objective.trained, ema, optimizer)
    lockstep = Lockstep()
    meta = checkpointer.load_newest()
    start = meta["step"] if meta else 0

    report: Log = hooks.log if first else lambda step, metrics: None
    reconstruction = Reconstruction(held_out)
    validation = HeldOutValidation(config.validate_every, reconstruction, tae, ema, device, report)

    def show(step: int, tae: TAE) -> None:
        hooks.pictures(step, reconstruction.pictures(tae, device))

    observers = Observers([
        lockstep,
        StopRequests(hooks.notice),
        validation,
        *([Samples(config.validate_every, tae, ema, show)] if first and held_out else []),
        Reports(config.log_every, TAEMetrics(), report),
        _SaveCheckpoints(config.checkpoint_every, checkpointer),
    ])  # fmt: skip
    trainer = TAETrainer(config, objective, ema, optimizer, Crops(config, videos, images), observers, device)
    if not trainer.run(start):
        return tae, {}, False
    if start >= config.steps:
        validation.validate()
    _take_average(tae, ema)
    measure_normalisation(tae, [*videos, *images])
    return tae.eval(), validation.values, True


def _build(config: TAEFitConfig, segments: Segments) -> Objective:
    """The objective with seeded weights; a linear shortcut starts from the segments' principal components."""
    torch.manual_seed(config.seed)
    tae = TAE(TAE_PRESETS[config.preset])
    if tae.config.linear_shortcut:
        tae.start_from_principal_components(first_crops(segments, config))
    objective = Objective(tae, config)
    if objective.perceptual is None and dist.get_rank() == 0:
        log.info("no perceptual loss: fit.perceptual names no weights of torchvision's vgg16")
    return objective


class _SaveCheckpoints(Observer):
    """Starts a checkpoint every `every` steps, at the end, and when a notice asks for one."""

    phase = "checkpoint"

    def __init__(self, every: int, checkpointer: Checkpointer):
        self._every, self._checkpointer = every, checkpointer

    def after_step(self, step: Step) -> None:
        if step.due(self._every) or step.notice:
            self._checkpointer.save(step.done, {})
        if step.last or step.notice == Notice.STOP:
            self._checkpointer.wait()


@torch.no_grad()
def _take_average(tae: TAE, ema: EMA) -> None:
    for name, parameter in tae.named_parameters():
        parameter.copy_(ema.weights[name])


@torch.no_grad()
def measure_normalisation(tae: TAE, segments: Segments, limit: int = 256) -> None:
    """Set the TAE's shift and scale to the mean and standard deviation of raw latents, per channel.

    Args:
        segments: of which at most `limit`, evenly spread, are encoded.
    """
    parts = []
    for read in spread(segments, limit):
        latent = tae.encode_raw(to_tensor(read())[None].to(tae.shift.device))
        flat = latent.transpose(0, 1).flatten(1).double()
        parts.append(torch.stack([flat.sum(1), flat.square().sum(1), torch.full_like(flat[:, 0], flat.shape[1])]))
    total, squares, count = functools.reduce(torch.add, parts)
    mean = total / count
    tae.set_normalisation(mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float())
