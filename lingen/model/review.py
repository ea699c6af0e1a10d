"""Review tokens: the video, average-pooled, written into Mamba's memory before the scan (slides; pooling 8x4x4)."""

from __future__ import annotations

import torch
from torch import Tensor


def review_tokens(x_BTHWD: Tensor, pool: tuple[int, int, int]) -> Tensor:
    """(B, ceil(T/8), ceil(H/4), ceil(W/4), D) for the pool (8, 4, 4); edge windows average what they hold."""
    for axis, size in enumerate(pool, start=1):  # a box's mean is the mean of its lines' means
        x_BTHWD = _mean_pool(x_BTHWD, axis, size)
    return x_BTHWD


def review_grid(shape: tuple[int, int, int], pool: tuple[int, int, int]) -> tuple[int, int, int]:
    """(T, H, W) of the review tokens of a (T, H, W) grid."""
    return tuple(-(-n // p) for n, p in zip(shape, pool))


def _mean_pool(x: Tensor, axis: int, size: int) -> Tensor:
    length = x.shape[axis]
    whole = length // size * size
    parts = []
    if whole:
        parts.append(x.narrow(axis, 0, whole).unflatten(axis, (-1, size)).mean(axis + 1))
    if whole < length:
        parts.append(x.narrow(axis, whole, length - whole).mean(axis, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
