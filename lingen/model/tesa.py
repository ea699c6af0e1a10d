"""TESA, temporal Swin attention: 3-D windows of a fixed size, shifted by half a window in every other layer.

Letters: B batch, T/H/W token axes, D width, H heads, P head dim.

A window at the edge of the grid is smaller. Instead of padding it and masking the padding, each axis is cut into
stretches of equal windows (head, full windows, tail), and every combination of stretches is one dense attention call
over exactly its tokens: nothing to mask, nothing computed in vain, and nothing that could leak across an edge.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from lingen.model.attention import attention


def axis_stretches(length: int, window: int, shift: int) -> list[tuple[int, int, int]]:
    """(start, count, size) stretches of `count` windows of `size` that cover 0..length in order.

    Windows begin at multiples of `window`, less `shift`: (34, 16, 8) gives [(0, 1, 8), (8, 1, 16), (24, 1, 10)].
    """
    stretches, start = [], 0
    if shift:
        head = min(window - shift, length)
        stretches.append((0, 1, head))
        start = head
    if full := (length - start) // window:
        stretches.append((start, full, window))
        start += full * window
    if start < length:
        stretches.append((start, 1, length - start))
    return stretches


class TESA(nn.Module):
    """Attention inside 3-D windows. `shifted` moves the window grid by half a window along T, H and W."""

    def __init__(self, width: int, heads: int, window: tuple[int, int, int], shifted: bool, backend: str = "sdpa"):
        super().__init__()
        self.heads, self.window, self.backend = heads, tuple(window), backend
        self.shift = tuple(w // 2 if shifted else 0 for w in window)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BTHWD: Tensor) -> Tensor:
        """(B, T, H, W, D) -> the same shape."""
        grid = x_BTHWD.shape[1:4]
        qkv = self.qkv(x_BTHWD)
        axes = [axis_stretches(*sizes) for sizes in zip(grid, self.window, self.shift)]
        parts = {spans: self._windows(qkv, spans) for spans in product(*axes)}
        return self.out(_join(parts, axes, ()))

    def _windows(self, qkv_BTHWC: Tensor, spans: tuple[tuple[int, int, int], ...]) -> Tensor:
        """Attention within each window of one block of equal windows, (B, t, h, w, D)."""
        batch = qkv_BTHWC.shape[0]
        (t0, nt, st), (h0, nh, sh), (w0, nw, sw) = spans
        block = qkv_BTHWC[:, t0 : t0 + nt * st, h0 : h0 + nh * sh, w0 : w0 + nw * sw]
        block = block.reshape(batch, nt, st, nh, sh, nw, sw, 3, self.heads, -1)
        q, k, v = block.permute(7, 0, 1, 3, 5, 2, 4, 6, 8, 9).flatten(1, 4).flatten(2, 4).unbind(0)
        y = attention(q, k, v, backend=self.backend)
        y = y.reshape(batch, nt, nh, nw, st, sh, sw, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return y.reshape(batch, nt * st, nh * sh, nw * sw, -1)


def _join(parts: dict, axes: list, spans: tuple) -> Tensor:
    """Blocks back into the grid."""
    if len(spans) == len(axes):
        return parts[spans]
    blocks = [_join(parts, axes, (*spans, span)) for span in axes[len(spans)]]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1 + len(spans))
