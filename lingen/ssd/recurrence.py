"""h_c = a_c * h_{c-1} + b_c along an axis, without a Python loop as long as the axis."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def linear_recurrence(decay: Tensor, value: Tensor, initial: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """States before each step, and after the last: h = initial, then h <- decay_c * h + value_c in the order of c.

    Args: decay (B, C, ...) broadcastable to value; value (B, C, ...); initial (B, ...); reverse, from the last c down.
    Returns: before (B, C, ...), the state that step c starts from; last (B, ...).

    Two levels: ~sqrt(C) groups advance side by side, then the groups in a row, then a correction. It takes ~2 sqrt(C)
    elementwise operations, which is what keeps graphs and launch counts small at long lengths. Steps that fill no
    group go one by one.
    """
    C = value.shape[1]
    group = max(1, math.isqrt(C))
    main = C // group * group
    turn = (lambda steps: steps[::-1]) if reverse else (lambda steps: steps)
    rest = list(zip(decay[:, main:].unbind(1), value[:, main:].unbind(1)))

    state = initial
    if reverse:
        rest_before, state = _one_by_one(rest[::-1], state)
        rest_before.reverse()

    # Within each group, from zero; `through` is the decay from the group's start to the same point.
    grouped = zip(*(z[:, :main].unflatten(1, (-1, group)).unbind(2) for z in (decay, value)))
    inner = through = None
    before = []
    for a, b in turn(list(grouped)):
        before.append((inner, through))
        inner = b if inner is None else torch.addcmul(b, a, inner)
        through = a if through is None else through * a

    starts, state = _one_by_one(turn(list(zip(through.unbind(1), inner.unbind(1)))), state)
    starts_BG = torch.stack(turn(starts), 1)
    steps = [starts_BG if h is None else torch.addcmul(h, a, starts_BG) for h, a in before]
    out = torch.stack(turn(steps), 2).flatten(1, 2)

    if not reverse:
        rest_before, state = _one_by_one(rest, state)
    if rest_before:
        out = torch.cat([out, torch.stack(rest_before, 1)], dim=1)
    return out, state


def _one_by_one(steps: list[tuple[Tensor, Tensor]], state: Tensor) -> tuple[list[Tensor], Tensor]:
    before = []
    for a, b in steps:
        before.append(state)
        state = torch.addcmul(b, a, state)
    return before, state
