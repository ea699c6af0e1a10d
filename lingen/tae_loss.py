"""What the TAE is trained on: reconstruction (L1) and the outlier penalty on latents (Movie Gen, 3.1.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def outlier_penalty(latent_BCTHW: Tensor, r: float = 3.0) -> Tensor:
    """Mean over positions of max(||x - mean|| - r ||std||, 0) (MG Eq. 1).

    Mean and std are per sample and channel over T, H, W; norms are over channels. It keeps the decoder from storing
    global information in a few extreme latents ("spot" artefacts).
    """
    mean = latent_BCTHW.mean(dim=(2, 3, 4), keepdim=True)
    std = latent_BCTHW.std(dim=(2, 3, 4), keepdim=True, correction=0)
    distance_BTHW = torch.linalg.vector_norm(latent_BCTHW - mean, dim=1)
    limit_BTHW = r * torch.linalg.vector_norm(std, dim=1)
    return (distance_BTHW - limit_BTHW).clamp_min(0).mean()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each sample (first axis) of two tensors in [-1, 1], clamped to it."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).float().pow(2).flatten(1).mean(1)
    return 10 * torch.log10(4.0 / error.clamp_min(1e-10))
