"""SSD in chunks with plain PyTorch (Dao & Gu 2024, sec. 6): quadratic inside a chunk, a recurrence between chunks.

Runs on any device and length, compiles without graph breaks, and its memory is linear in L.

Letters of shapes: B batch, L sequence, K chunks, Q tokens per chunk, H heads, P head dim, N state size. As names of
tensors, A, B and C are the parameters of the state-space model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lingen.ssd.recurrence import linear_recurrence


def ssd_chunked(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    initial_BHPN: Tensor,
    reverse: bool,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """`lingen.ssd.ssd` without the D term. Decays and states in float32, matrix products in x's dtype."""
    _, L, H, P = x_BLHP.shape
    Q = min(chunk, L)
    dtype = x_BLHP.dtype

    dt_BLH = dt_BLH.float()
    x_BLHP = x_BLHP * dt_BLH.to(dtype)[..., None]
    log_decay_BLH = dt_BLH * A_H.float()
    if pad := -L % Q:  # zero input, no decay: changes neither outputs nor states
        x_BLHP = F.pad(x_BLHP, (0, 0, 0, 0, 0, pad))
        log_decay_BLH = F.pad(log_decay_BLH, (0, 0, 0, pad))
        B_BLN, C_BLN = F.pad(B_BLN, (0, 0, 0, pad)), F.pad(C_BLN, (0, 0, 0, pad))
    x_BKQHP = x_BLHP.unflatten(1, (-1, Q))
    B_BKQN, C_BKQN = B_BLN.unflatten(1, (-1, Q)), C_BLN.unflatten(1, (-1, Q))
    log_BKQH = log_decay_BLH.unflatten(1, (-1, Q))

    # Log decay from the chunk's first scanned token up to and including each token.
    reach_BKQH = log_BKQH.flip(2).cumsum(2).flip(2) if reverse else log_BKQH.cumsum(2)
    total_BKH = reach_BKQH[:, :, 0 if reverse else -1]

    # Inside a chunk: y_q = sum_s (C_q . B_s) exp(reach_q - reach_s) x_s over all s scanned no later than q.
    reach_BKHQ = reach_BKQH.transpose(2, 3)
    causal_QQ = torch.ones(Q, Q, dtype=torch.bool, device=x_BLHP.device)
    causal_QQ = causal_QQ.triu() if reverse else causal_QQ.tril()
    segment_BKHQQ = (reach_BKHQ[..., :, None] - reach_BKHQ[..., None, :]).masked_fill(~causal_QQ, -torch.inf)
    scores_BKQQ = C_BKQN @ B_BKQN.transpose(-1, -2)
    mix_BKHQQ = segment_BKHQQ.exp().to(dtype) * scores_BKQQ[:, :, None]
    inside_BKQHP = (mix_BKHQQ @ x_BKQHP.transpose(2, 3)).transpose(2, 3)

    # Between chunks. All heads share B and C, so one matrix product serves them all: (N x Q) @ (Q x HP).
    to_end_BKQH = (total_BKH[:, :, None] - reach_BKQH).exp()
    weighted = (x_BKQHP * to_end_BKQH.to(dtype)[..., None]).flatten(3)
    local_BKNHP = (B_BKQN.transpose(-1, -2) @ weighted).float().unflatten(-1, (H, P))
    decay_BK1H1 = total_BKH.exp()[:, :, None, :, None]
    initial_BNHP = initial_BHPN.float().permute(0, 3, 1, 2)
    before_BKNHP, final_BNHP = linear_recurrence(decay_BK1H1, local_BKNHP, initial_BNHP, reverse)
    across = (C_BKQN @ before_BKNHP.to(dtype).flatten(3)).unflatten(-1, (H, P))

    y_BKQHP = torch.addcmul(inside_BKQHP, across, reach_BKQH.exp().to(dtype)[..., None])
    y_BLHP = y_BKQHP.flatten(1, 2)[:, :L]
    return y_BLHP, final_BNHP.permute(0, 2, 3, 1)
