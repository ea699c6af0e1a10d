"""TESA, temporal Swin attention: 3-D windows of a fixed size, shifted by half a window in every other layer.

Windows at the edges of the grid are smaller. Instead of padding them and masking the padding, each axis is cut into
stretches of equal windows (head, full windows, tail), and every combination of stretches, a block, is one dense
attention call over exactly its tokens: nothing is masked or wasted, and nothing can leak across an edge.

Letters: B batch, T/H/W token axes, D width, C = 3 D channels of queries, keys and values.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from lingen.model.attention import attention

Stretch = tuple[int, int, int]
"""(start, count, size): `count` windows of `size` tokens each, beginning at token `start` of an axis."""


def axis_stretches(length: int, window: int, shift: int) -> list[Stretch]:
    """Cut an axis into stretches that cover it in order.

    Windows begin at multiples of `window`, minus `shift`: (34, 16, 8) gives [(0, 1, 8), (8, 1, 16), (24, 1, 10)].

    Args:
        length: tokens of the axis.
        window: tokens of a full window.
        shift: tokens by which the windows are shifted, 0 <= shift < window.
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
    """Attention inside 3-D windows.

    Args:
        width: D.
        heads: attention heads.
        window: window size (T, H, W) in tokens.
        shifted: shift the windows by half a window along T, H and W.
        backend: one of lingen.model.attention.ATTENTION_BACKENDS.
    """

    def __init__(self, width: int, heads: int, window: tuple[int, int, int], shifted: bool, backend: str = "sdpa"):
        super().__init__()
        self.heads, self.window, self.backend = heads, tuple(window), backend
        self.shift = tuple(w // 2 if shifted else 0 for w in window)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BTHWD: Tensor) -> Tensor:
        """(B, T, H, W, D) -> the same shape."""
        grid = x_BTHWD.shape[1:4]
        qkv_BTHWC = self.qkv(x_BTHWD)
        axes = [axis_stretches(*sizes) for sizes in zip(grid, self.window, self.shift)]
        blocks = {block: self._attend(qkv_BTHWC, block) for block in product(*axes)}
        return self.out(_join(blocks, axes, ()))

    def _attend(self, qkv_BTHWC: Tensor, stretches: tuple[Stretch, ...]) -> Tensor:
        """Attention within each window of one block: per axis n windows of s tokens -> (B, nt st, nh sh, nw sw, D)."""
        batch = qkv_BTHWC.shape[0]
        (t0, nt, st), (h0, nh, sh), (w0, nw, sw) = stretches
        block = qkv_BTHWC[:, t0 : t0 + nt * st, h0 : h0 + nh * sh, w0 : w0 + nw * sw]
        block = block.reshape(batch, nt, st, nh, sh, nw, sw, 3, self.heads, -1)
        q, k, v = block.permute(7, 0, 1, 3, 5, 2, 4, 6, 8, 9).flatten(1, 4).flatten(2, 4).unbind(0)
        y = attention(q, k, v, backend=self.backend)
        y = y.reshape(batch, nt, nh, nw, st, sh, sw, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return y.reshape(batch, nt * st, nh * sh, nw * sw, -1)


def _join(blocks: dict[tuple[Stretch, ...], Tensor], axes: list[list[Stretch]], chosen: tuple[Stretch, ...]) -> Tensor:
    """Reassemble the grid from its blocks, axis by axis; `chosen` has the stretches of the outer axes."""
    if len(chosen) == len(axes):
        return blocks[chosen]
    parts = [_join(blocks, axes, (*chosen, stretch)) for stretch in axes[len(chosen)]]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1 + len(chosen))
