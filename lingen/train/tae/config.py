"""The training settings of the TAE."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lingen.tae.config import TAE_PRESETS


@dataclasses.dataclass(frozen=True, kw_only=True)
class TAEFitConfig:
    """How the TAE is trained: all that decides its weights."""

    preset: str = "tae_paper"
    """tae_paper (Movie Gen's shape) or tae_tiny (tests and demo)"""
    steps: int = 100_000
    """updates"""
    batch_size: int = 16
    """segments in a global batch"""
    crop: int = 256
    """side of the random square that is cut from a segment, in pixels"""
    frames: int = 16
    """frames that are cut from a video segment"""
    image_share: float = 0.25
    """share of the steps that train on images (single frames)"""
    lr: float = 1e-4
    """peak learning rate of AdamW; falls to 0 along a half-cosine"""
    warmup: int = 500
    """steps of linear warm-up"""
    outlier_weight: float = 1e-3
    """weight of the outlier penalty; Movie Gen's is 1e5 on sums, others measured lower PSNR with it, so small here"""
    perceptual: Path | None = None
    """file with the weights of torchvision's vgg16; without it there is no perceptual loss"""
    perceptual_weight: float = 0.1
    """weight of the perceptual loss"""
    adversarial_weight: float = 0.0
    """weight of the adversarial loss; 0 trains no discriminator"""
    adversarial_start: int = 0
    """step from which the discriminator takes part, once decoded frames are good enough to be worth discriminating"""
    ema_decay: float = 0.999
    """decay of the averaged weights"""
    seed: int = 0
    """seed of initial weights and crops"""
    log_every: int = 10
    """steps between reported metrics"""
    validate_every: int = 1000
    """steps between validations on held-out segments"""
    checkpoint_every: int = 1000
    """steps between checkpoints"""

    def __post_init__(self) -> None:
        if self.preset not in TAE_PRESETS:
            raise ValueError(f"fit.preset: {self.preset} is unknown; the presets are {', '.join(TAE_PRESETS)}")
        factor = TAE_PRESETS[self.preset].spatial_factor
        if self.crop < factor or self.crop % factor:
            raise ValueError(f"fit.crop: must be a multiple of {factor}, got {self.crop}")
        for name in ("steps", "batch_size", "frames", "log_every", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("outlier_weight", "perceptual_weight", "adversarial_weight", "adversarial_start"):
            if getattr(self, name) < 0:
                raise ValueError(f"fit.{name}: must not be negative, got {getattr(self, name)}")
        if self.perceptual is not None and not self.perceptual.is_file():
            raise ValueError(f"fit.perceptual: {self.perceptual} does not exist; name a file with the weights of vgg16")
