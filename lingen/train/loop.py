"""The training loop: draw a batch, noise it, predict the velocity, step, average (Movie Gen, 2410.13720, 3.2.1).

A step is a function of (seed, step, weights): the plan names the samples, each sample carries the seed of its noise and
time, and gradients are averaged over the global batch, whatever the number of workers. What keeps a long run alive
watches from outside (lingen/train/observers/).

Legend: B samples of this rank, C channels, T/H/W latent axes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from lingen.data.loader import LatentBatch
from lingen.model.denoiser import Denoiser
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.flow import draw_noise_and_times, interpolate, per_sample_loss
from lingen.train.lr_schedule import learning_rate
from lingen.train.observers.observer import Observers, Step
from lingen.train.observers.preemption import Notice
from lingen.train.optimizer import clip_gradients
from lingen.train.sharding import average_whole_gradients


class Trainer:
    """One rank of a stage in training: a model, its average and its optimizer, changed in place."""

    def __init__(
        self,
        config: FitConfig,
        model: Denoiser,
        ema: EMA,
        optimizer: torch.optim.Optimizer,
        observers: Observers,
        device: torch.device,
    ):
        self.config, self.model, self.ema, self.optimizer = config, model, ema, optimizer
        self.observers, self.device = observers, device

    def run(self, batches: Iterable[LatentBatch], start: int) -> bool:
        """Train on every batch, the first of step `start`. Returns False when asked to stop before the last step."""
        self.observers.start(start)
        clock = time.perf_counter()
        for batch in batches:
            step = Step(batch.step, last=batch.step + 1 == self.config.steps)
            step.batch = batch
            step.waited_s = time.perf_counter() - clock
            self.observers.before_step(step)
            self.train_step(step)
            step.seconds = time.perf_counter() - clock
            self.observers.after_step(step)
            if step.notice == Notice.STOP and not step.last:
                return False
            clock = time.perf_counter()
        return True

    def train_step(self, step: Step) -> None:
        """One update of the weights and of their average, unless an observer objects to the gradient."""
        step.lr = learning_rate(self.config, step.number)
        for group in self.optimizer.param_groups:
            group["lr"] = step.lr
        self.accumulate_gradients(step)
        step.grad_norm = clip_gradients(self.model, self.config.grad_clip).item()
        step.skip_reason = self.observers.reason_to_skip(step)
        if step.skip_reason is None:
            self.optimizer.step()
            self.ema.update(self.model)
        self.optimizer.zero_grad()
        self.observers.lap("optimizer")

    def accumulate_gradients(self, step: Step) -> None:
        """Gradients of the mean loss over the global batch, micro-batch by micro-batch.

        Each micro-batch's are reduced to shards at once: sums of whole gradients would take 4 bytes a parameter. Copies
        of the shards (fit.shard_group) are added up once, at the end.
        """
        count = step.batch.latent_BCTHW.shape[0]
        size = self.config.micro_batch or count
        losses, times = [], []
        for first in range(0, count, size):
            part = slice(first, first + size)
            if isinstance(self.model, FSDPModule):
                self.model.set_requires_all_reduce(first + size >= count)
            data = step.batch.latent_BCTHW[part].to(self.device)
            drawn = draw_noise_and_times(step.batch.seeds[part], data.shape[1:])
            noise, t_B = (x.to(self.device) for x in drawn)
            text = [
                (embedding[part].to(self.device), mask[part].to(self.device)) for embedding, mask in step.batch.text
            ]
            point, target = interpolate(data, noise, t_B)
            self.observers.lap("prepare")
            loss_B = per_sample_loss(self.model(point, t_B, text), target)
            self.observers.lap("forward")
            # Ranks' gradients are averaged: times world / batch makes that the mean over the global batch.
            (loss_B.sum() * (dist.get_world_size() / self.config.batch_size)).backward()
            losses.append(loss_B.detach())
            times.append(t_B)
            self.observers.lap("backward")
        if isinstance(self.model, FSDPModule):
            average_whole_gradients(self.model)
        step.loss_B, step.t_B = torch.cat(losses), torch.cat(times)
