"""SwiGLU feed-forward network (Shazeer 2020; SUP E.1). Letters: D width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def hidden_width(width: int, ratio: float, multiple: int = 64) -> int:
    """ratio * width, rounded up to a multiple that suits matrix units: 2560 * 8/3 -> 6848."""
    return -(-int(ratio * width) // multiple) * multiple


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), with gate and up as one projection."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
