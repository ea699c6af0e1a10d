"""Bidirectional Mamba-1, the ablation of Table 2: one decay per channel and state, so no matrix form; state size 16.

Letters of shapes: B batch, L sequence, D width, E inner width (expand * D), N state size. As names of tensors, A, B, C
and D are the parameters of the state-space model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lingen.model.mamba2 import causal_conv
from lingen.ssd.recurrence import linear_recurrence

CHUNK = 1024
"""Tokens whose (E x N) states are in memory at the same time; longer inputs are processed chunk by chunk."""


class Mamba1Direction(nn.Module):
    """Convolution and selective-scan parameters of one direction (Gu & Dao 2023, Algorithm 2)."""

    def __init__(self, inner: int, state: int, rank: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)  # dt, B, C from the convolved x
        self.dt_proj = nn.Linear(rank, inner, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        self.A_log = nn.Parameter(torch.arange(1, state + 1).float().log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        dt = torch.exp(torch.rand(inner) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))


class BidirectionalMamba1(nn.Module):
    """Structured like BidirectionalMamba2 (shared projections, summed directions), without the inner norm."""

    def __init__(self, width: int, *, expand: float = 1, state: int = 16, kernel: int = 4):
        super().__init__()
        inner = int(expand * width)
        self.inner, self.state, self.rank = inner, state, math.ceil(width / 16)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)  # z, x
        self.forwards = Mamba1Direction(inner, state, self.rank, kernel)
        self.backwards = Mamba1Direction(inner, state, self.rank, kernel)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, u_BLD: Tensor, before: int = 0, after: int = 0) -> Tensor:
        """(B, L, D) -> (B, L - before - after, D); see BidirectionalMamba2.forward."""
        end, start = u_BLD.shape[1] - after, before if after else 0
        z, x = self.in_proj(u_BLD).chunk(2, dim=-1)
        y = self._scan(self.forwards, x[:, :end], reverse=False)[:, before:]
        y = y + self._scan(self.backwards, x[:, start:], reverse=True)[:, before - start : end - start]
        return self.out_proj(y * F.silu(z[:, before:end]))

    def _scan(self, direction: Mamba1Direction, x_BLE: Tensor, reverse: bool) -> Tensor:
        x = F.silu(causal_conv(x_BLE, direction.conv, reverse))
        dt, B, C = direction.x_proj(x).split([self.rank, self.state, self.state], dim=-1)
        dt = F.softplus(direction.dt_proj(dt).float() + direction.dt_bias.float())
        y, _ = selective_scan(x, dt, -direction.A_log.float().exp(), B, C, reverse=reverse)
        return y + x * direction.D.to(x.dtype)


def selective_scan(
    x_BLE: Tensor,
    dt_BLE: Tensor,
    A_EN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    initial_BEN: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """h_l = exp(dt_l A) h_{l-1} + dt_l B_l x_l,  y_l = C_l . h_l, per channel, with states in float32.

    Memory holds the states of one chunk, in training too (a chunk is recomputed in the backward pass).

    Args:
        x_BLE: inputs (B, L, E).
        dt_BLE: step sizes (B, L, E), positive.
        A_EN: decay rates (E, N), negative.
        B_BLN: input projections (B, L, N).
        C_BLN: output projections (B, L, N).
        initial_BEN: state before the first token (B, E, N); None: zero.
        reverse: scan from the last token to the first.

    Returns:
        y (B, L, E) in x's dtype, and the final state (B, E, N).
    """
    if reverse:
        x_BLE, dt_BLE, B_BLN, C_BLN = (z.flip(1) for z in (x_BLE, dt_BLE, B_BLN, C_BLN))
    if initial_BEN is None:
        initial_BEN = A_EN.new_zeros(x_BLE.shape[0], *A_EN.shape)
    ys, state = [], initial_BEN
    for x, dt, B, C in zip(*(z.split(CHUNK, dim=1) for z in (x_BLE, dt_BLE, B_BLN, C_BLN))):
        if torch.is_grad_enabled():
            y, state = checkpoint(_scan_chunk, x, dt, A_EN, B, C, state, use_reentrant=False)
        else:
            y, state = _scan_chunk(x, dt, A_EN, B, C, state)
        ys.append(y)
    y_BLE = torch.cat(ys, dim=1)
    return (y_BLE.flip(1) if reverse else y_BLE), state


def _scan_chunk(
    x_BLE: Tensor, dt_BLE: Tensor, A_EN: Tensor, B_BLN: Tensor, C_BLN: Tensor, state_BEN: Tensor
) -> tuple[Tensor, Tensor]:
    decay_BLEN = (dt_BLE[..., None] * A_EN).exp()
    update_BLEN = (dt_BLE * x_BLE.float())[..., None] * B_BLN.float()[:, :, None]
    before_BLEN, last_BEN = linear_recurrence(decay_BLEN, update_BLEN, state_BEN)
    states_BLEN = torch.addcmul(update_BLEN, decay_BLEN, before_BLEN)
    y_BLE = (states_BLEN @ C_BLN.float()[..., None]).squeeze(-1)
    return y_BLE.to(x_BLE.dtype), last_BEN
