"""Validation: the loss on samples that are never trained on, at fixed noise and fixed times.

Every chosen sample is seen with the same noise at the middle of every noise level, so that two values differ by the
weights alone. A sample is one unit of work, done by one rank, and the losses are combined in a fixed order: the numbers
are the same, to the bit, on any number of workers.

Legend: B noise levels of a sample, C channels, T/H/W latent axes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from lingen.data.shard_index import BucketIndex, ShardIndex
from lingen.data.shards import DamagedSample
from lingen.text.padding import pad_text
from lingen.train.ema import EMA
from lingen.train.flow import interpolate, per_sample_loss
from lingen.train.observers.observer import Observer, Step
from lingen.train.observers.reports import Log

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


class Validation:
    """The loss on fixed samples of a stage.

    Args:
        held_out: samples that training never sees.
        samples: how many of each medium.
        levels: noise levels, evenly spaced in time.
        micro_batch: how many levels go through the model at once; 0: all.
    """

    def __init__(self, held_out: ShardIndex, samples: int, levels: int, micro_batch: int = 0):
        self._levels, self._size = levels, micro_batch or levels
        by_medium: dict[str, list[tuple[BucketIndex, int]]] = {}
        for _, bucket in sorted(held_out.buckets.items()):
            by_medium.setdefault(bucket.bucket.media, []).extend((bucket, row) for row in range(len(bucket)))
        self._work = [
            (medium, *found[i])
            for medium, found in by_medium.items()
            for i in np.unique(np.linspace(0, len(found) - 1, samples).round().astype(int))
            if _readable(*found[i])
        ]
        # Video before image: the first is the stage's own medium.
        self._media = sorted({medium for medium, _, _ in self._work}, reverse=True)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._work)

    @torch.no_grad()
    def __call__(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean losses: val/loss and val/t0... of the stage's own medium; in video stages val/image as well.

        Called by every rank at the same step: with sharded weights, all ranks compute together.
        """
        rank, world = dist.get_rank(), dist.get_world_size()
        losses = torch.zeros(len(self._work), self._levels, dtype=torch.float64, device=device)
        for first in range(0, len(self._work), world):
            # Past the end the last sample is computed again, but not counted: no rank may miss a collective.
            place = min(first + rank, len(self._work) - 1)
            _, bucket, row = self._work[place]
            loss_B = self._losses(model, bucket, row, device)
            if first + rank == place:
                losses[place] = loss_B
        dist.all_reduce(losses)  # exact: every row is one rank's, the others add zeros
        losses = losses.cpu()
        of = {m: losses[[i for i, (medium, _, _) in enumerate(self._work) if medium == m]] for m in self._media}
        own, *others = self._media
        values = {"val/loss": of[own].mean()} | {f"val/{m}": of[m].mean() for m in others}
        values |= {f"val/t{i}": of[own][:, i].mean() for i in range(self._levels)}
        return {name: value.item() for name, value in values.items()}

    def _losses(self, model: nn.Module, bucket: BucketIndex, row: int, device: torch.device) -> torch.Tensor:
        """Loss of one sample at the middle of each noise level, (B,)."""
        latent, text = bucket.read(row)
        data = latent.float().expand(self._levels, *latent.shape).to(device)
        seed = int.from_bytes(hashlib.blake2b(bucket.key(row).encode(), digest_size=7).digest(), "big")
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)).expand(data.shape).to(device)
        t = (torch.arange(self._levels, device=device) + 0.5) / self._levels
        point, target = interpolate(data, noise, t)
        padded = [pad_text([embedding]) for embedding in text]
        parts = []
        for first in range(0, self._levels, self._size):
            part = slice(first, first + self._size)
            count = len(t[part])
            repeated = [(e.to(device).expand(count, -1, -1), m.to(device).expand(count, -1)) for e, m in padded]
            parts.append(per_sample_loss(model(point[part], t[part], repeated), target[part]))
        return torch.cat(parts).double()


Measure = Callable[[Model, torch.device], dict[str, float]]
"""a validation: measure(model, device) -> metrics"""


class HeldOutValidation(Observer, Generic[Model]):
    """Validates the averaged weights at the start, every `every` steps and at the end (0: at the end only).

    The values go into the step's metrics; those of the start go to `log`.

    Attributes:
        values: the newest values.
    """

    phase = "validate"

    def __init__(
        self,
        every: int,
        measure: Measure[Model],
        model: Model,
        ema: EMA,
        device: torch.device,
        log: Log,
    ):
        self._every, self._measure, self._model, self._ema = every, measure, model, ema
        self._device, self._log = device, log
        self.values: dict[str, float] = {}

    def start(self, step: int) -> None:
        if step == 0:
            self._log(0, self.validate())

    def after_step(self, step: Step) -> None:
        if step.due(self._every):
            step.metrics |= self.validate()

    def validate(self) -> dict[str, float]:
        """Validate now."""
        with self._ema.applied_to(self._model):
            self.values = self._measure(self._model, self._device)
        return self.values


def _readable(bucket: BucketIndex, row: int) -> bool:
    """Whether a sample can be read; checked before training, so that the same files give every rank the same answer."""
    try:
        bucket.read(row)
    except DamagedSample as damage:
        log.warning("left out of the validation: %s", damage)
        return False
    return True
