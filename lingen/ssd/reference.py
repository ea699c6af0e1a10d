"""SSD by its definition: one token after another, in float64. Slow and plain; every backend is compared with it.

Letters as in lingen.ssd.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ssd_reference(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    initial_BHPN: Tensor,
    reverse: bool,
    chunk: int = 1,
) -> tuple[Tensor, Tensor]:
    """h_l = exp(dt_l A) h_{l-1} + dt_l x_l B_l^T,  y_l = h_l C_l  (Dao & Gu 2024, Eq. 1 with scalar A per head).

    Arguments and results as in `lingen.ssd.ssd`, without the D term. `chunk` is unused: a sequential scan has none.
    """
    x, dt, A, B, C, state = (z.double() for z in (x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, initial_BHPN))
    L = x.shape[1]
    ys: list = [None] * L
    for i in reversed(range(L)) if reverse else range(L):
        decay = torch.exp(dt[:, i] * A)
        update = torch.einsum("bh,bhp,bn->bhpn", dt[:, i], x[:, i], B[:, i])
        state = decay[..., None, None] * state + update
        ys[i] = torch.einsum("bhpn,bn->bhp", state, C[:, i])
    return torch.stack(ys, dim=1).to(x_BLHP.dtype), state.float()
