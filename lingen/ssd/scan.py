"""The scan itself: one function over every backend, in parts where a kernel's 32-bit offsets would overflow."""

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
    """h_l = exp(dt_l A) h_{l-1} + dt_l x_l B_l^T,  y_l = h_l C_l + D x_l.  `reverse` runs from the last token back.

    Args: dt positive (after softplus); A negative; initial_BHPN the state before the first token that is read; chunk,
    tokens per chunk (None: the backend's own; it changes speed, not the result).
    Returns: y (B, L, H, P) in x's dtype; the final state (B, H, P, N) in float32. Both carry gradients.

    An input that a kernel's 32-bit offsets could not address goes through in parts, the state handed from one to the
    next: those kernels read and write wrong places silently (state-spaces/mamba#1015).
    """
    batch, L, H, P = x_BLHP.shape
    N = B_BLN.shape[-1]
    kernel = BACKENDS[resolve_backend(backend, x_BLHP.device)]
    chunk = chunk or kernel.chunk
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
