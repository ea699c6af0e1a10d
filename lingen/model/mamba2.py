"""Bidirectional Mamba-2: one in- and one out-projection, two convolution + SSM passes (SUP Eq. 1; notes/paper.md).

Letters of shapes: B batch, L sequence, D width, F convolved features, K kernel size, H heads, P head dim. As names of
tensors, A, B, C and D are the parameters of the state-space model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lingen.model.norms import RMSNorm
from lingen.ssd import resolve_backend, ssd


class Mamba2Direction(nn.Module):
    """Parameters that the forward and the reversed pass do not share: convolution, A, D and dt_bias."""

    def __init__(self, channels: int, heads: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel, groups=channels)  # weights only; applied by causal_conv
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        # dt starts log-uniform in [0.001, 0.1]; dt_bias is its inverse softplus (as Mamba-2 initialises it).
        dt = torch.exp(torch.rand(heads) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))


class BidirectionalMamba2(nn.Module):
    """Forward and reversed Mamba-2 over shared projections; the directions are summed before the gated norm.

    Args:
        width: D.
        expand: inner width over D.
        state: state size.
        head_dim: P, a divisor of the inner width.
        kernel: K of the convolution.
        chunk: tokens per chunk of the scan; None: the backend's default.
        backend: what computes the scan; see lingen.ssd.BACKENDS.

    Attributes:
        recompute: the backward pass computes PyTorch's scan again, one direction at a time, instead of keeping what is
            inside both; the other backends keep nothing. Not where layers are compiled.

    Raises:
        ValueError: the inner width is not a multiple of the head dim.
    """

    def __init__(
        self,
        width: int,
        *,
        expand: float = 1,
        state: int = 128,
        head_dim: int = 64,
        kernel: int = 4,
        chunk: int | None = None,
        backend: str = "auto",
    ):
        super().__init__()
        inner = int(expand * width)
        if inner % head_dim:
            raise ValueError(
                f"ssm_head_dim: {head_dim} does not divide the inner width {inner} (ssm_expand * width); "
                "choose a divisor"
            )
        self.inner, self.state, self.head_dim = inner, state, head_dim
        self.heads = inner // head_dim
        self.chunk, self.backend, self.recompute = chunk, backend, False
        self.in_proj = nn.Linear(width, 2 * inner + 2 * state + self.heads, bias=False)  # z, x, B, C, dt
        self.forwards = Mamba2Direction(inner + 2 * state, self.heads, kernel)
        self.backwards = Mamba2Direction(inner + 2 * state, self.heads, kernel)
        self.norm = RMSNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, u_BLD: Tensor, before: int = 0, after: int = 0) -> Tensor:
        """Mix a sequence of full tokens between two copies of the review tokens.

        The forward pass reads all but the closing review, the reversed pass all but the opening one, so that each
        begins with a review; both read views of one buffer. Without a closing review the reversed pass reads all.

        Args:
            u_BLD: [`before` review tokens, full tokens, `after` review tokens], (B, L, D).
            before: number of review tokens at the beginning.
            after: number of review tokens at the end.

        Returns:
            The full tokens alone, (B, L - before - after, D).
        """
        end, start = u_BLD.shape[1] - after, before if after else 0
        zxbcdt = self.in_proj(u_BLD)
        z, xBC, dt = zxbcdt.split([self.inner, self.inner + 2 * self.state, self.heads], dim=-1)
        y = self._scan(self.forwards, xBC[:, :end], dt[:, :end], reverse=False)[:, before:]
        y = y + self._scan(self.backwards, xBC[:, start:], dt[:, start:], reverse=True)[:, before - start : end - start]
        return self.out_proj(self.norm(y * F.silu(z[:, before:end])))

    def _scan(self, direction: Mamba2Direction, xBC_BLF: Tensor, dt_BLH: Tensor, reverse: bool) -> Tensor:
        inputs = (direction, xBC_BLF, dt_BLH, reverse)
        eager = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if self.recompute and eager and resolve_backend(self.backend, xBC_BLF.device) == "torch":
            return checkpoint(self._scan_once, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self._scan_once(*inputs)

    def _scan_once(self, direction: Mamba2Direction, xBC_BLF: Tensor, dt_BLH: Tensor, reverse: bool) -> Tensor:
        xBC = F.silu(causal_conv(xBC_BLF, direction.conv, reverse))
        x, B, C = xBC.split([self.inner, self.state, self.state], dim=-1)
        y, _ = ssd(
            x.unflatten(-1, (self.heads, self.head_dim)),
            F.softplus(dt_BLH.float() + direction.dt_bias.float()),
            -direction.A_log.float().exp(),
            B,
            C,
            direction.D,
            reverse=reverse,
            backend=self.backend,
            chunk=self.chunk,
        )
        return y.flatten(2)


def causal_conv(x_BLF: Tensor, conv: nn.Conv1d, reverse: bool = False) -> Tensor:
    """Depthwise convolution over L that sees a token and the K - 1 before it (after it, when reversed).

    Args:
        x_BLF: (B, L, F).
        conv: depthwise, with weight (F, 1, K) and a bias (F,).
        reverse: look ahead instead of back.

    Returns:
        (B, L, F).
    """
    assert conv.bias is not None
    weight_F1K, bias_F = conv.weight.to(x_BLF.dtype), conv.bias.to(x_BLF.dtype)
    K = weight_F1K.shape[-1]
    if reverse:
        weight_F1K = weight_F1K.flip(-1)
    x_BLF = F.pad(x_BLF, (0, 0, 0, K - 1) if reverse else (0, 0, K - 1, 0))
    if x_BLF.is_cuda:  # shifted products, which compile into one kernel
        L = x_BLF.shape[1] - K + 1
        y = bias_F
        for k in range(K):
            y = torch.addcmul(y, x_BLF[:, k : k + L], weight_F1K[:, 0, k])
        return y
    # As a 2-D convolution of a channels-last image one pixel high: twice as fast as conv1d, which wants channels first.
    image = x_BLF.transpose(1, 2)[:, :, None]
    return F.conv2d(image, weight_F1K[:, :, None], bias_F, groups=x_BLF.shape[-1])[:, :, 0].transpose(1, 2)
