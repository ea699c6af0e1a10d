"""The learning rate, a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from lingen.train.config import FitConfig


def learning_rate(config: FitConfig, step: int) -> float:
    """Linear warm-up to lr, then constant, or along a line or half a cosine down to lr_end. `step` counts from 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = min((step - config.warmup) / max(config.steps - 1 - config.warmup, 1), 1.0)
    left = 1 - progress if config.schedule == "linear" else 0.5 + 0.5 * math.cos(math.pi * progress)
    return config.lr_end + (config.lr - config.lr_end) * left
