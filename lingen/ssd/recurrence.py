"""h_s = a_s * h_{s-1} + b_s along an axis, with a Python loop much shorter than the axis.

Letters: B batch, S steps, G groups of steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def linear_recurrence(decay: Tensor, value: Tensor, initial: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """States before every step and after the last: h starts as initial, then h <- decay_s * h + value_s for each s.

    Two levels: ~sqrt(S) groups advance side by side, then the groups one after another, then a correction. That takes
    ~2 sqrt(S) elementwise operations, which keeps graphs and launch counts small at long lengths. Steps that do not
    fill a group are taken one by one.

    Args:
        decay: (B, S, ...), broadcastable to value.
        value: (B, S, ...).
        initial: (B, ...).
        reverse: step from the last s down.

    Returns:
        The state that each step starts from (B, S, ...), and the state after the last step (B, ...).
    """
    S = value.shape[1]
    group = max(1, math.isqrt(S))
    main = S // group * group
    turn = (lambda steps: steps[::-1]) if reverse else (lambda steps: steps)
    rest = list(zip(decay[:, main:].unbind(1), value[:, main:].unbind(1)))

    state = initial
    if reverse:
        rest_before, state = _one_by_one(rest[::-1], state)
        rest_before.reverse()

    # Within each group, from zero; `through` is the decay from the group's start to the same point.
    grouped = zip(*(z[:, :main].unflatten(1, (-1, group)).unbind(2) for z in (decay, value)))
    inner: Tensor | None = None
    through: Tensor | None = None
    before = []
    for a, b in turn(list(grouped)):
        before.append((inner, through))
        inner = b if inner is None else torch.addcmul(b, a, inner)
        through = a if through is None else through * a
    assert inner is not None
    assert through is not None

    starts, state = _one_by_one(turn(list(zip(through.unbind(1), inner.unbind(1)))), state)
    starts_BG = torch.stack(turn(starts), 1)
    steps = [starts_BG if h is None or a is None else torch.addcmul(h, a, starts_BG) for h, a in before]
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
