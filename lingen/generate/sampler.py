"""From noise to latents: Euler steps along the predicted velocity, with classifier-free guidance (SUP: 50 steps).

Letters: B batch, C channels, T/H/W latent axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lingen.model.conditioning import Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a video is sampled from the model."""

    steps: int = 50
    """Euler steps (50 in the paper)"""
    guidance: float = 7.5
    """classifier-free guidance scale; 1 turns it off and halves the time (7.5 is Movie Gen's)"""
    timesteps: Literal["linear", "linear-quadratic"] = "linear"
    """spacing of the steps: even, or dense near the noise (Movie Gen's, for few steps)"""

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"sampler.steps: need at least 1, got {self.steps}")
        if self.guidance < 0:
            raise ValueError(f"sampler.guidance: must not be negative, got {self.guidance}")
        if self.timesteps not in ("linear", "linear-quadratic"):
            raise ValueError(f"sampler.timesteps: {self.timesteps} is unknown; use linear or linear-quadratic")


def step_times(config: SamplerConfig, emulated: int = 1000) -> Tensor:
    """The steps + 1 times from 0 (noise) to 1 (data), float64.

    linear-quadratic (MG 3.4.2): the first half of the steps are the first of `emulated` linear steps, the second half
    grows quadratically to 1. Fewer than 4 steps are always linear.

    Args:
        config: number and spacing of the steps.
        emulated: linear steps that linear-quadratic starts like.
    """
    n = config.steps
    if config.timesteps == "linear" or n < 4:
        return torch.linspace(0, 1, n + 1, dtype=torch.float64)
    half = n // 2
    linear = torch.arange(half + 1, dtype=torch.float64) / max(emulated, n)
    rest = n - half
    slope, start = linear[1].item(), linear[-1].item()
    i = torch.arange(1, rest + 1, dtype=torch.float64)
    # start + slope i + a i^2, with a such that the last time is 1: continuous in value and slope.
    curve = (1 - start - slope * rest) / rest**2
    return torch.cat([linear, start + slope * i + curve * i**2])


@torch.no_grad()
def sample(
    model: Callable[[Tensor, Tensor, Text], Tensor],
    noise_BCTHW: Tensor,
    text: Text,
    config: SamplerConfig,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Sample latents from the model.

    With guidance the two predictions run one after the other: kernels with 32-bit offsets would overflow on a doubled
    batch of minute-long videos, and peak memory halves.

    Args:
        model: (x_BCTHW, t_B, text) -> velocity_BCTHW.
        noise_BCTHW: where the path starts (B, C, T, H, W).
        text: one (embedding, mask) per encoder.
        config: steps and guidance.
        on_step: called with the number of completed steps.

    Returns:
        Latents (B, C, T, H, W).
    """
    no_text = [(embedding, torch.zeros_like(mask)) for embedding, mask in text]
    times = step_times(config)
    x = noise_BCTHW
    for i, (t, t_next) in enumerate(zip(times[:-1].tolist(), times[1:].tolist())):
        t_B = torch.full((x.shape[0],), t, device=x.device)
        velocity = model(x, t_B, text)
        if config.guidance != 1:
            unconditional = model(x, t_B, no_text)
            velocity = unconditional + config.guidance * (velocity - unconditional)
        x = x + (t_next - t) * velocity.to(x.dtype)
        if on_step:
            on_step(i + 1)
    return x
