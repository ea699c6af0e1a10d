"""Review tokens: the average-pooled video, written into Mamba's state before the scan (slides; pooling 8x4x4).

Letters: B batch, T/H/W token axes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def review_tokens(x_BTHWD: Tensor, pool: tuple[int, int, int]) -> Tensor:
    """Average-pool a grid of tokens; boxes at the edge average the tokens that they contain.

    Args:
        x_BTHWD: tokens (B, T, H, W, D).
        pool: box size (T, H, W) in tokens.

    Returns:
        (B, *review_grid((T, H, W), pool), D).
    """
    for axis, size in enumerate(pool, start=1):  # the mean of a box is the mean of the means of its lines
        x_BTHWD = _mean_pool(x_BTHWD, axis, size)
    return x_BTHWD


def review_grid(shape: tuple[int, int, int], pool: tuple[int, int, int]) -> tuple[int, int, int]:
    """(T, H, W) of the review tokens of a (T, H, W) grid."""
    (T, H, W), (t, h, w) = shape, pool
    return -(-T // t), -(-H // h), -(-W // w)


def _mean_pool(x: Tensor, axis: int, size: int) -> Tensor:
    length = x.shape[axis]
    whole = length // size * size
    parts = []
    if whole:
        parts.append(x.narrow(axis, 0, whole).unflatten(axis, (-1, size)).mean(axis + 1))
    if whole < length:
        parts.append(x.narrow(axis, whole, length - whole).mean(axis, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
