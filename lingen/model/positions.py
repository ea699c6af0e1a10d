"""Factorized learnable positions: one table per axis, summed (SUP E.1, after NaViT).

They enter the first norm of every layer, so positions do not fade with depth (read off the project page's drawing).

Letters: T/H/W token axes, D width, N rows of a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FactorizedPositions(nn.Module):
    """Learnable tables for T, H and W.

    A size within a table reads its first rows, so an image is the first frame of a video. Larger sizes are read as
    `stretched` has them.
    """

    def __init__(self, sizes: tuple[int, int, int], width: int):
        super().__init__()
        # They start as sinusoids, a third of the width for each axis: smooth (a stretched table makes sense before it
        # is trained) and unambiguous (a sum of three equal tables would confuse the axes). All of it is learnable.
        self.tables = nn.ParameterList(nn.Parameter(_sinusoids(size, width, axis)) for axis, size in enumerate(sizes))

    def forward(self, T: int, H: int, W: int) -> Tensor:
        """The sum of the three tables, (T, H, W, D)."""
        t_TD, h_HD, w_WD = stretched(list(self.tables), (T, H, W))
        return t_TD[:, None, None] + h_HD[:, None] + w_WD


def stretched(tables: Sequence[Tensor], sizes: tuple[int, int, int], scale: float = 1.0) -> tuple[Tensor, ...]:
    """The rows that a grid of tokens reads from tables made for another one.

    H and W are read at one step, whatever the proportions of picture and tables, so that a token finds the rows of the
    place that it covers. T is stretched from end to end when it is too short: later rows have never been trained.

    Args:
        tables: T, H and W, each (N, D).
        sizes: tokens (T, H, W) of the grid.
        scale: how many tokens of the grid cover one of the tables', along H and W; more where the tables end otherwise.

    Returns:
        Three tables with `sizes` rows.
    """
    (time_ND, height_ND, width_ND), (T, H, W) = tables, sizes
    scale = max(scale, H / len(height_ND), W / len(width_ND))
    return _end_to_end(time_ND, T), _at_step(height_ND, H, scale), _at_step(width_ND, W, scale)


def _end_to_end(table_ND: Tensor, n: int) -> Tensor:
    """The first n rows of a table, or the table stretched to n rows if n > N: (n, D)."""
    if n <= len(table_ND):
        return table_ND[:n]
    return F.interpolate(table_ND.t()[None], size=n, mode="linear", align_corners=True)[0].t()


def _at_step(table_ND: Tensor, n: int, scale: float) -> Tensor:
    """n rows, linearly between the table's: row i lies where the middle of token i does, (i + 1/2) / scale - 1/2."""
    if scale == 1:
        return table_ND[:n]
    place_n = ((torch.arange(n, device=table_ND.device) + 0.5) / scale - 0.5).clamp(0, len(table_ND) - 1)
    before_n = place_n.long()
    after_n = (before_n + 1).clamp_max(len(table_ND) - 1)
    return torch.lerp(table_ND[before_n], table_ND[after_n], (place_n - before_n).to(table_ND.dtype)[:, None])


def _sinusoids(size: int, width: int, axis: int, amplitude: float = 0.5) -> Tensor:
    start, end = width * axis // 3, width * (axis + 1) // 3
    columns = torch.arange(end - start)
    frequency = torch.exp(-math.log(1e4) * (columns // 2 * 2) / max(1, end - start))
    angle = torch.arange(size)[:, None] * frequency
    table = torch.zeros(size, width)
    table[:, start:end] = amplitude * torch.where(columns % 2 == 0, angle.sin(), angle.cos())
    return table
