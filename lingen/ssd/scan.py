"""The scan itself: one function for all backends, in parts where a kernel's 32-bit offsets would overflow.

Letters as in lingen.ssd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lingen.ssd.backends import BACKENDS, resolve_backend
from lingen.ssd.headroom import max_tokens


def ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_H: Tensor | None = None,
    initial_BHPN: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """h_l = exp(dt_l A) h_{l-1} + dt_l x_l B_l^T,  y_l = h_l C_l + D x_l.

    An input beyond a kernel's 32-bit offsets is processed in parts that pass the state on: those kernels would silently
    read and write at wrong places (state-spaces/mamba#1015).

    Args:
        x_BLHP: inputs (B, L, H, P).
        dt_BLH: step sizes (B, L, H), positive (after softplus).
        A_H: decay rates (H,), negative.
        B_BLN: input projections (B, L, N).
        C_BLN: output projections (B, L, N).
        D_H: skip connection (H,); None: no skip.
        initial_BHPN: state before the first scanned token (B, H, P, N); None: zero.
        reverse: scan from the last token to the first.
        backend: auto or one of BACKENDS.
        chunk: tokens per chunk; None: the backend's default. Changes speed, not the result.

    Returns:
        y (B, L, H, P) in x's dtype, and the final state (B, H, P, N) in float32. Both carry gradients.

    Raises:
        ValueError: the backend cannot be used here, or the batch is too large for its 32-bit offsets.
    """
    batch, L, H, P = x_BLHP.shape
    N = B_BLN.shape[-1]
    kernel = BACKENDS[resolve_backend(backend, x_BLHP.device)]
    chunk = chunk or (x_BLHP.is_cuda and kernel.cuda_chunk) or kernel.chunk
    state = x_BLHP.new_zeros(batch, H, P, N, dtype=torch.float32) if initial_BHPN is None else initial_BHPN.float()

    limit = max_tokens(kernel.name, batch=batch, heads=H, head_dim=P, state=N, chunk=chunk)
    parts = 1 if limit is None else -(-L // limit)
    if parts == 1:
        y, state = kernel.scan(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, state, reverse, chunk)
    else:
        ys = []
        pieces = list(zip(*(z.tensor_split(parts, dim=1) for z in (x_BLHP, dt_BLH, B_BLN, C_BLN))))
        for x, dt, B, C in reversed(pieces) if reverse else pieces:
            y, state = kernel.scan(x, dt, A_H, B, C, state, reverse, chunk)
            ys.append(y)
        y = torch.cat(ys[::-1] if reverse else ys, dim=1)
    if D_H is not None:
        y = torch.addcmul(y, x_BLHP, D_H.to(x_BLHP.dtype)[:, None])
    return y, state
