"""RMSNorm, the normalisation inside the layers (SUP E.1), and the adaLN modulation that follows it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) [* weight] over the last axis, in x's own dtype even under autocast.

    `affine=False` where adaLN supplies the scale.
    """

    def __init__(self, width: int, affine: bool = True, eps: float = 1e-6):
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same shape and dtype."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        # Autocast would return float32 and double the memory of everything after the norm.
        with torch.autocast(x.device.type, enabled=False):
            return F.rms_norm(x, (self.width,), weight, self.eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift; shift and scale broadcast over the token axes."""
    return torch.addcmul(shift, x, 1 + scale)
