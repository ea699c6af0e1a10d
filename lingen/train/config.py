"""The training settings of a stage."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from lingen.io.manifest import to_plain
from lingen.train.observers.guard import GuardConfig

BOOKKEEPING = frozenset(
    [
        *("checkpoint_every", "keep_checkpoints", "keep_every", "log_every", "sample_every", "micro_batch"),
        *("validate_every", "validation_samples", "guard", "hang_timeout", "compile"),
        *("activation_checkpointing", "shard_group"),
    ]
)
"""Settings that change neither the loss curve nor the weights."""
SCHEDULES = ("constant", "linear", "cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a stage is trained: all that decides its loss curve. Defaults are Movie Gen's where LinGen states none."""

    steps: int = 1000
    """updates"""
    batch_size: int = 64
    """samples in a global batch"""
    micro_batch: int = 0
    """samples that a worker takes through the model at once; 0: all it has (no gradient accumulation)"""
    image_ratio: str = "1:100"
    """images to videos in video stages, in samples"""
    text_dropout: float = 0.1
    """share of samples trained without their text, for guidance"""
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
    """average the weights of the last so many steps evenly (model averaging) instead of exponentially; 0: never"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the model's arithmetic; weights, gradient sums and optimizer state stay float32"""
    activation_checkpointing: bool = False
    """recompute each layer's activations in the backward pass: saves memory for a third more time"""
    compile: bool = False
    """torch.compile every layer"""
    shard_group: int = 0
    """workers that share one copy of the weights, gradients and optimizer state, such as the GPUs of a node (all groups
    hold equal copies); 0: all workers share one copy"""
    seed: int = 0
    """seed of initial weights, sample order, noise and times"""
    checkpoint_every: int = 1000
    """steps between checkpoints; one is always saved at the end"""
    keep_checkpoints: int = 2
    """number of the newest that are kept, beside one saved by a request to stop"""
    keep_every: int = 0
    """checkpoints at multiples of this many steps are kept for good; 0: none"""
    log_every: int = 10
    """steps between reported metrics (means over those steps)"""
    sample_every: int = 0
    """steps between sample videos; 0: at the end only"""
    held_out: float = 0.001
    """share of the files that are never trained on, in any stage; chosen by the files' hashes"""
    validate_every: int = 0
    """steps between validations on held-out samples, which also come at the start and at the end; 0: never"""
    validation_samples: int = 64
    """held-out samples of each medium in a validation"""
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)
    """which updates are skipped, and when training rewinds"""
    hang_timeout: float = 1800.0
    """seconds without progress after which training ends with an error that names the rank that is behind"""

    def __post_init__(self) -> None:
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

    def content(self) -> dict[str, Any]:
        """The settings that decide the loss curve and the weights, as JSON values."""
        return {name: value for name, value in to_plain(self).items() if name not in BOOKKEEPING}
