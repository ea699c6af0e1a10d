"""Factorized learnable positions: one table per axis, summed (SUP E.1, after NaViT).

They enter the first norm of every layer, so positions do not fade with depth (read off the project page's drawing).

Letters: T/H/W token axes, D width, N rows of a table.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FactorizedPositions(nn.Module):
    """Learnable tables for T, H and W.

    A size within a table reads its first rows, so an image is the first frame of a video. A larger size reads the whole
    table, stretched linearly from end to end; `resized` makes that permanent when a stage outgrows its tables.
    """

    def __init__(self, sizes: tuple[int, int, int], width: int):
        super().__init__()
        # They start as sinusoids, a third of the width for each axis: smooth (a stretched table makes sense before it
        # is trained) and unambiguous (a sum of three equal tables would confuse the axes). All of it is learnable.
        self.tables = nn.ParameterList(nn.Parameter(_sinusoids(size, width, axis)) for axis, size in enumerate(sizes))

    def forward(self, T: int, H: int, W: int) -> Tensor:
        """The sum of the three tables, (T, H, W, D)."""
        t_TD, h_HD, w_WD = (resize_table(table, n) for table, n in zip(self.tables, (T, H, W)))
        return t_TD[:, None, None] + h_HD[:, None] + w_WD

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows of the tables (T, H, W)."""
        t_TD, h_HD, w_WD = self.tables
        return len(t_TD), len(h_HD), len(w_WD)

    def resized(self, sizes: tuple[int, int, int]) -> FactorizedPositions:
        """A copy whose tables have at least these sizes (T, H, W); tables never shrink."""
        t, h, w = (max(old, new) for old, new in zip(self.sizes, sizes))
        copy = FactorizedPositions((t, h, w), self.tables[0].shape[1])
        with torch.no_grad():
            for new, old in zip(copy.tables, self.tables):
                new.copy_(resize_table(old, len(new)))
        return copy.to(device=self.tables[0].device, dtype=self.tables[0].dtype)


def resize_table(table_ND: Tensor, n: int) -> Tensor:
    """The first n rows of a table, or the table stretched to n rows if n > N: (n, D)."""
    if n <= len(table_ND):
        return table_ND[:n]
    return F.interpolate(table_ND.t()[None], size=n, mode="linear", align_corners=True)[0].t()


def _sinusoids(size: int, width: int, axis: int, amplitude: float = 0.5) -> Tensor:
    start, end = width * axis // 3, width * (axis + 1) // 3
    columns = torch.arange(end - start)
    frequency = torch.exp(-math.log(1e4) * (columns // 2 * 2) / max(1, end - start))
    angle = torch.arange(size)[:, None] * frequency
    table = torch.zeros(size, width)
    table[:, start:end] = amplitude * torch.where(columns % 2 == 0, angle.sin(), angle.cos())
    return table
