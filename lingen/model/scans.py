"""Scans: the order in which a (T, H, W) grid of tokens becomes a sequence, and the way back.

RMS (rotary-major scan, the paper's): the layer index mod 4 picks the major order, last axis fastest; a permute and a
reshape, so it costs one copy and no index. Ablations: `raster` (no RMS), and two that read through an index, `zigzag`
(the same four orders, every second line reversed) and `hilbert`.

Letters: B batch, T/H/W token axes, N = T*H*W tokens, R review tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

SCANS = ("rms", "raster", "zigzag", "hilbert")

# Axes of (T, H, W) from slowest to fastest.
SPATIAL_ROW, SPATIAL_COLUMN, TEMPORAL_ROW, TEMPORAL_COLUMN = (0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0)
ROTATION = (SPATIAL_ROW, SPATIAL_COLUMN, TEMPORAL_ROW, TEMPORAL_COLUMN)


def scan_axes(scan: str, layer: int) -> tuple[int, int, int]:
    """The axis order of a layer's scan, slowest axis first."""
    return SPATIAL_ROW if scan == "raster" else ROTATION[layer % len(ROTATION)]


def to_sequence(x_BTHWD: Tensor, scan: str, layer: int, index_N: Tensor | None = None) -> Tensor:
    """Flatten a grid of tokens in scan order.

    Args:
        x_BTHWD: (B, T, H, W, D).
        scan: one of SCANS.
        layer: index of the layer.
        index_N: for scans that need an index; see scan_orders.

    Returns:
        (B, N, D).
    """
    if index_N is not None:
        return x_BTHWD.flatten(1, 3).index_select(1, index_N)
    a, b, c = scan_axes(scan, layer)
    return x_BTHWD.permute(0, a + 1, b + 1, c + 1, 4).flatten(1, 3)


def from_sequence(
    x_BND: Tensor, shape: tuple[int, int, int], scan: str, layer: int, inverse_N: Tensor | None = None
) -> Tensor:
    """Invert `to_sequence` exactly; the result is a view for RMS.

    Args:
        x_BND: (B, N, D) in scan order.
        shape: the grid (T, H, W).
        scan: one of SCANS.
        layer: index of the layer.
        inverse_N: for scans that need an index; see scan_orders.

    Returns:
        (B, T, H, W, D).
    """
    if inverse_N is not None:
        return x_BND.index_select(1, inverse_N).unflatten(1, shape)
    axes = scan_axes(scan, layer)
    grid = x_BND.unflatten(1, tuple(shape[axis] for axis in axes))
    back = [axes.index(axis) + 1 for axis in range(3)]
    return grid.permute(0, *back, 4)


class ScanOrder(NamedTuple):
    """A scan as an index, for the full tokens and for the review tokens."""

    index_N: Tensor
    """sequence = raster[index_N]"""
    inverse_N: Tensor
    """raster = sequence[inverse_N]"""
    review_R: Tensor
    """review sequence = review raster[review_R]"""


def scan_orders(
    scan: str, shape: tuple[int, int, int], review: tuple[int, int, int], device: str | torch.device
) -> Sequence[ScanOrder | None]:
    """The orders of four consecutive layers.

    Args:
        scan: one of SCANS.
        shape: grid (T, H, W) of the tokens.
        review: grid (T, H, W) of the review tokens.
        device: where the indices are needed.

    Returns:
        One order per layer index mod 4; None for scans that are plain permutes.
    """
    if scan not in ("zigzag", "hilbert"):
        return [None] * len(ROTATION)
    return _cached_orders(scan, shape, review, torch.device(device))


@lru_cache(maxsize=8)
def _cached_orders(
    scan: str, shape: tuple[int, int, int], review: tuple[int, int, int], device: torch.device
) -> list[ScanOrder]:
    orders = []
    for axes in ROTATION:
        index_N, review_R = (scan_index(scan, grid, axes) for grid in (shape, review))
        orders.append(ScanOrder(*(z.to(device) for z in (index_N, index_N.argsort(), review_R))))
    return orders


def scan_index(scan: str, shape: tuple[int, int, int], axes: tuple[int, int, int] = SPATIAL_ROW) -> Tensor:
    """index_N int64 with sequence = raster[index_N], for any scan (for the permutes too, which tests compare with)."""
    coordinates_3THW = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"))
    rank = {"zigzag": _zigzag, "hilbert": _hilbert}.get(scan, _major)(coordinates_3THW, shape, axes)
    return rank.flatten().argsort()


def _major(coordinates_3THW: Tensor, shape: tuple[int, int, int], axes: tuple[int, int, int]) -> Tensor:
    rank = torch.zeros_like(coordinates_3THW[0])
    for axis in axes:
        rank = rank * shape[axis] + coordinates_3THW[axis]
    return rank


def _zigzag(coordinates_3THW: Tensor, shape: tuple[int, int, int], axes: tuple[int, int, int]) -> Tensor:
    """Rank along ZigMa's snake: plane after plane, every second line of a plane backwards.

    Reversing every second plane as well would bring neighbours closer at k = 2 (228 instead of 342 at 32^3), but then
    the paper's "RMS achieves the same d_k as Zigzag" (SUP Fig. 1) would not hold; with this one it holds exactly.
    """
    slow, middle, fast = (coordinates_3THW[axis] for axis in axes)
    _, lines, length = (shape[axis] for axis in axes)
    return (slow * lines + middle) * length + torch.where(middle % 2 == 0, fast, length - 1 - fast)


def _hilbert(coordinates_3THW: Tensor, shape: tuple[int, int, int], axes: tuple[int, int, int]) -> Tensor:
    """Rank along the Hilbert curve of the enclosing power-of-two cube (J. Skilling, AIP Conf. Proc. 707, 2004).

    In any other box the curve leaves and re-enters, so consecutive tokens are not always neighbours.
    """
    bits = max(1, (max(shape) - 1).bit_length())
    x = [coordinates_3THW[axis].clone() for axis in axes]
    for bit in range(bits - 1, 0, -1):  # undo the excess rotations and reflections, top bit first
        q = 1 << bit
        low = q - 1
        for i in range(3):
            flip = (x[i] & q) != 0
            swap = torch.where(flip, 0, (x[0] ^ x[i]) & low)
            x[0] = torch.where(flip, x[0] ^ low, x[0] ^ swap)
            if i > 0:
                x[i] = x[i] ^ swap
    x[1] ^= x[0]  # Gray code
    x[2] ^= x[1]
    parity = torch.zeros_like(x[0])
    for bit in range(bits - 1, 0, -1):
        parity ^= torch.where((x[2] & (1 << bit)) != 0, (1 << bit) - 1, 0)
    rank = torch.zeros_like(x[0])
    for bit in range(bits - 1, -1, -1):
        for axis in x:
            rank = rank * 2 + (((axis ^ parity) >> bit) & 1)
    return rank
