"""From noise to latents: Euler steps along the predicted velocity, with classifier-free guidance (SUP: 50 steps).

Legend: B batch, C channels, T/H/W latent axes, L text tokens, D text width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Text = Sequence[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a video is drawn from the model."""

    steps: int = 50
    """Euler steps (50 in the paper)"""
    guidance: float = 7.5
    """classifier-free guidance scale; 1 turns it off and halves the time (7.5 is Movie Gen's)"""
    schedule: Literal["linear", "linear-quadratic"] = "linear"
    """where the steps lie: evenly, or dense near the noise as in Movie Gen's few-step schedule"""

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"sampler.steps: need at least 1, got {self.steps}")
        if self.guidance < 0:
            raise ValueError(f"sampler.guidance: must not be negative, got {self.guidance}")
        if self.schedule not in ("linear", "linear-quadratic"):
            raise ValueError(f"sampler.schedule: {self.schedule} is unknown; use linear or linear-quadratic")


def step_times(config: SamplerConfig, emulated: int = 1000) -> Tensor:
    """The steps + 1 times from 0 (noise) to 1 (data), float64.

    linear-quadratic (MG 3.4.2): the first half of the steps are the first steps of an `emulated`-step linear schedule,
    the second half grows quadratically to 1.
    """
    n = config.steps
    if config.schedule == "linear" or n < 4:
        return torch.linspace(0, 1, n + 1, dtype=torch.float64)
    half = n // 2
    linear = torch.arange(half + 1, dtype=torch.float64) / max(emulated, n)
    rest = n - half
    slope, start = linear[1].item(), linear[-1].item()
    i = torch.arange(1, rest + 1, dtype=torch.float64)
    # start + slope i + a i^2, with a so that the last time is 1: continuous in value and slope.
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
    """Latents (B, C, T, H, W) drawn from the model.

    Args:
        model: (x_BCTHW, t_B, text) -> velocity_BCTHW; a row of text masked everywhere means "no text".
        text: one (embedding_BLD, mask_BL) per encoder.
        on_step: called with the number of steps done.

    With guidance the two predictions run one after the other: kernels with 32-bit offsets would overflow on a doubled
    batch of minute-long videos, and the memory peak halves.
    """
    nothing = [(embedding, torch.zeros_like(mask)) for embedding, mask in text]
    times = step_times(config)
    x = noise_BCTHW
    for i, (t, t_next) in enumerate(zip(times[:-1].tolist(), times[1:].tolist())):
        t_B = torch.full((x.shape[0],), t, device=x.device)
        velocity = model(x, t_B, text)
        if config.guidance != 1:
            free = model(x, t_B, nothing)
            velocity = free + config.guidance * (velocity - free)
        x = x + (t_next - t) * velocity.to(x.dtype)
        if on_step:
            on_step(i + 1)
    return x
