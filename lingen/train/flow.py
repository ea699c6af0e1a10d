"""Flow matching along straight paths from noise to data (Movie Gen, 2410.13720, 3.2.1; LinGen states no objective).

Legend: B batch, C channels, T/H/W latent axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SIGMA_MIN = 1e-5


def interpolate(data_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
    """The point X_t = t X_1 + (1 - (1 - sigma_min) t) X_0 and the velocity to predict, X_1 - (1 - sigma_min) X_0.

    t = 0 is noise, t = 1 is data (MG Eq. 2 and 3).
    """
    t = t_B.view(-1, *[1] * (data_BCTHW.ndim - 1))
    point = t * data_BCTHW + (1 - (1 - SIGMA_MIN) * t) * noise_BCTHW
    return point, data_BCTHW - (1 - SIGMA_MIN) * noise_BCTHW


def draw_noise_and_times(seeds: Sequence[int], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Noise (B, *shape) and logit-normal(0, 1) times (B,), each sample from its own seed.

    Seeded per sample on the CPU, so that a sample meets the same noise on any number and kind of workers.
    """
    noise, times = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        times.append(torch.sigmoid(torch.randn((), generator=generator)))
        noise.append(torch.randn(*shape, generator=generator))
    return torch.stack(noise), torch.stack(times)


def per_sample_loss(velocity_BCTHW: Tensor, target_BCTHW: Tensor) -> Tensor:
    """Mean squared error of each sample, in float32; (B,)."""
    return (velocity_BCTHW.float() - target_BCTHW.float()).square().flatten(1).mean(1)
