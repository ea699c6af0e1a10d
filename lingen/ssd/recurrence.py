"""h_c = a_c * h_{c-1} + b_c along an axis, without a Python loop as long as the axis."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_recurrence(decay: Tensor, value: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """States before each step, and after the last: h_0 = initial, h_{c+1} = decay_c * h_c + value_c.

    Args: decay (B, C, ...) broadcastable to value; value (B, C, ...); initial (B, ...).
    Returns: before (B, C, ...), the h_c; last (B, ...), h_C.

    Two levels: C steps as ~sqrt(C) groups that advance side by side, then the groups in a row, then a correction. It
    takes ~2 sqrt(C) elementwise operations, which is what keeps graphs and launch counts small at long lengths.
    """
    C = value.shape[1]
    group = max(1, math.isqrt(C))
    count = -(-C // group)
    if (missing := count * group - C) > 0:  # identity steps: decay 1, value 0
        tail = (0, 0) * (value.ndim - 2)
        value = F.pad(value, (*tail, 0, missing))
        decay = F.pad(decay, (*tail, 0, missing), value=1.0)
    decays = decay.unflatten(1, (count, group)).unbind(2)
    values = value.unflatten(1, (count, group)).unbind(2)

    # Within each group, from zero; `through` is the decay from the group's start to the same point.
    state, through = torch.zeros_like(values[0]), torch.ones_like(decays[0])
    before, throughs = [], []
    for a, b in zip(decays, values):
        before.append(state)
        throughs.append(through)
        state = torch.addcmul(b, a, state)
        through = through * a

    starts = []
    start = initial
    for a, b in zip(through.unbind(1), state.unbind(1)):
        starts.append(start)
        start = torch.addcmul(b, a, start)
    starts_BG = torch.stack(starts, 1)

    out = torch.stack([torch.addcmul(h, a, starts_BG) for h, a in zip(before, throughs)], 2)
    return out.flatten(1, 2)[:, :C], start
