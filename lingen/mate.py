"""MATE, the mixer that replaces self-attention: MA-branch (bidirectional Mamba over a scan) + TE-branch (TESA).

Both branches read the same normed input, and their outputs are summed (project page).
Letters: B batch, T/H/W token axes, D width, N = T*H*W tokens, R review tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lingen.review import review_grid, review_tokens
from lingen.scans import from_sequence, scan_index, to_sequence


class MABranch(nn.Module):
    """Review and full tokens, each through the layer's scan -> Mamba -> inverse scan of the full tokens."""

    def __init__(self, mamba: nn.Module, scan: str, layer: int, review_pool: tuple[int, int, int] | None):
        super().__init__()
        self.mamba, self.scan, self.layer, self.review_pool = mamba, scan, layer, review_pool

    def forward(self, x_BTHWD: Tensor) -> Tensor:
        shape = tuple(x_BTHWD.shape[1:4])
        index = scan_index(self.scan, shape, self.layer, x_BTHWD.device)
        tokens_BND = to_sequence(x_BTHWD, self.scan, self.layer, index)
        review = 0
        if self.review_pool is not None:
            grid = review_grid(shape, self.review_pool)
            review_index = scan_index(self.scan, grid, self.layer, x_BTHWD.device)
            review_BRD = to_sequence(review_tokens(x_BTHWD, self.review_pool), self.scan, self.layer, review_index)
            review = review_BRD.shape[1]
            tokens_BND = torch.cat([review_BRD, tokens_BND, review_BRD], dim=1)
        return from_sequence(self.mamba(tokens_BND, review), shape, self.scan, self.layer, index)


class MATE(nn.Module):
    """The sum of the branches that are there (an ablation takes one away)."""

    def __init__(self, ma: nn.Module | None, tesa: nn.Module | None):
        super().__init__()
        assert ma is not None or tesa is not None
        self.ma, self.tesa = ma, tesa

    def forward(self, x_BTHWD: Tensor) -> Tensor:
        """(B, T, H, W, D) -> the same shape."""
        branches = [branch(x_BTHWD) for branch in (self.ma, self.tesa) if branch is not None]
        return branches[0] if len(branches) == 1 else branches[0] + branches[1]
