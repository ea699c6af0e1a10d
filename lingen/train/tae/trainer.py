"""The TAE's training loop; a step is a function of (seed, step, weights)."""

from __future__ import annotations

import math
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lingen.train.ema import EMA
from lingen.train.observers.observer import Observers, Step
from lingen.train.observers.preemption import Notice
from lingen.train.tae.config import TAEFitConfig
from lingen.train.tae.crops import Crops
from lingen.train.tae.objective import Objective


class TAETrainer:
    """One rank of a TAE in training: its objective, its average and the optimizer, changed in place."""

    def __init__(
        self,
        config: TAEFitConfig,
        objective: Objective,
        ema: EMA,
        optimizer: torch.optim.Optimizer,
        crops: Crops,
        observers: Observers,
        device: torch.device,
    ):
        self.config, self.objective, self.ema, self.optimizer = config, objective, ema, optimizer
        self.crops, self.observers, self.device = crops, observers, device
        self.parallel = DistributedDataParallel(objective) if dist.get_world_size() > 1 else objective

    def run(self, start: int) -> bool:
        """Train from step `start` on. Returns False when asked to stop before the last step."""
        self.observers.start(start)
        for number in range(start, self.config.steps):
            step = Step(number, last=number + 1 == self.config.steps)
            self.observers.before_step(step)
            clock = time.perf_counter()
            self.train_step(step)
            step.seconds = time.perf_counter() - clock
            self.observers.after_step(step)
            if step.notice == Notice.STOP and not step.last:
                return False
        return True

    def train_step(self, step: Step) -> None:
        """One update of the weights and of their average, unless the gradient is not finite."""
        step.lr = learning_rate(self.config, step.number)
        for group in self.optimizer.param_groups:
            group["lr"] = step.lr
        batch = self.crops.batch(step.number, dist.get_rank(), dist.get_world_size()).to(self.device)
        loss, step.losses = self.parallel(batch, step.number)
        loss.backward()
        step.grad_norm = self.clip_gradients()
        if math.isfinite(step.grad_norm):
            self.optimizer.step()
            self.ema.update(self.objective.tae)
        else:
            step.skip_reason = "the gradient is not finite"
        self.optimizer.zero_grad()

    def clip_gradients(self) -> float:
        """Clip the gradients to norm 1. Returns the TAE's norm before; nan when the discriminator's is not finite."""
        norm = nn.utils.clip_grad_norm_(self.objective.tae.parameters(), 1.0)
        if self.objective.discriminator is not None:
            norm = norm + 0 * nn.utils.clip_grad_norm_(self.objective.discriminator.parameters(), 1.0)
        return norm.item()


def learning_rate(config: TAEFitConfig, step: int) -> float:
    """The learning rate of a step, counted from 0: half a cosine down to 0, with a linear warm-up."""
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    return config.lr * rise * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))
