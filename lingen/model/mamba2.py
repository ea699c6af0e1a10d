"""Bidirectional Mamba-2: one in- and one out-projection, two convolution + SSM passes (SUP Eq. 1; notes/paper.md).

Letters: B batch, L sequence, D width, E inner width (expand * D), H heads, P head dim, N state size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingen.model.norms import RMSNorm
from lingen.ssd import ssd


class Mamba2Direction(nn.Module):
    """What the forward and the reversed pass do not share: convolution, A, D and dt_bias."""

    def __init__(self, channels: int, heads: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel, groups=channels)  # holds the weights; see causal_conv
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        # dt starts log-uniform in [0.001, 0.1]; dt_bias is its inverse softplus (Mamba-2's initialisation).
        dt = torch.exp(torch.rand(heads) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))


class BidirectionalMamba2(nn.Module):
    """Forward and reversed Mamba-2 over shared projections; the directions are summed before the gated norm.

    Raises:
        ValueError: the inner width is not a multiple of the head dim.
    """

    def __init__(self, width, *, expand=1, state=128, head_dim=64, kernel=4, chunk=None, backend="auto"):
        super().__init__()
        inner = int(expand * width)
        if inner % head_dim:
            raise ValueError(
                f"ssm_head_dim: {head_dim} does not divide the inner width {inner} (ssm_expand * width); "
                "choose a divisor"
            )
        self.inner, self.state, self.head_dim = inner, state, head_dim
        self.heads = inner // head_dim
        self.chunk, self.backend = chunk, backend
        self.in_proj = nn.Linear(width, 2 * inner + 2 * state + self.heads, bias=False)  # z, x, B, C, dt
        self.forwards = Mamba2Direction(inner + 2 * state, self.heads, kernel)
        self.backwards = Mamba2Direction(inner + 2 * state, self.heads, kernel)
        self.norm = RMSNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, u_BLD: Tensor, before: int = 0, after: int = 0) -> Tensor:
        """[`before` review tokens, N tokens, `after` review tokens] (B, L, D) -> (B, N, D).

        The forward pass reads all but the closing review, the reversed pass all but the opening one, so that each
        begins with a review; both are views of one buffer. Without a closing review the reversed pass reads all.
        """
        end, start = u_BLD.shape[1] - after, before if after else 0
        zxbcdt = self.in_proj(u_BLD)
        z, xBC, dt = zxbcdt.split([self.inner, self.inner + 2 * self.state, self.heads], dim=-1)
        y = self._scan(self.forwards, xBC[:, :end], dt[:, :end], reverse=False)[:, before:]
        y = y + self._scan(self.backwards, xBC[:, start:], dt[:, start:], reverse=True)[:, before - start : end - start]
        return self.out_proj(self.norm(y * F.silu(z[:, before:end])))

    def _scan(self, direction: Mamba2Direction, xBC: Tensor, dt: Tensor, reverse: bool) -> Tensor:
        xBC = F.silu(causal_conv(xBC, direction.conv.weight, direction.conv.bias, reverse))
        x, B, C = xBC.split([self.inner, self.state, self.state], dim=-1)
        y, _ = ssd(
            x.unflatten(-1, (self.heads, self.head_dim)),
            F.softplus(dt.float() + direction.dt_bias.float()),
            -direction.A_log.float().exp(),
            B,
            C,
            direction.D,
            reverse=reverse,
            backend=self.backend,
            chunk=self.chunk,
        )
        return y.flatten(2)


def causal_conv(x_BLD: Tensor, weight_D1K: Tensor, bias_D: Tensor, reverse: bool = False) -> Tensor:
    """Depthwise convolution over L that sees the token and the K - 1 before it (after it, when reversed)."""
    K = weight_D1K.shape[-1]
    weight_D1K, bias_D = weight_D1K.to(x_BLD.dtype), bias_D.to(x_BLD.dtype)
    if reverse:
        weight_D1K = weight_D1K.flip(-1)
    x_BLD = F.pad(x_BLD, (0, 0, 0, K - 1) if reverse else (0, 0, K - 1, 0))
    if x_BLD.is_cuda:  # shifted products, which compile into one kernel
        L = x_BLD.shape[1] - K + 1
        y = bias_D
        for k in range(K):
            y = torch.addcmul(y, x_BLD[:, k : k + L], weight_D1K[:, 0, k])
        return y
    # As a 2-D convolution of a channels-last image one pixel high: twice as fast as conv1d, which wants channels first.
    image = x_BLD.transpose(1, 2)[:, :, None]
    return F.conv2d(image, weight_D1K[:, :, None], bias_D, groups=x_BLD.shape[-1])[:, :, 0].transpose(1, 2)
