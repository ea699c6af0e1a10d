"""MATE, the mixer that replaces self-attention: MA-branch (bidirectional Mamba over a scan) + TE-branch (TESA).

Both branches read the same normed input, and their outputs are summed (project page).

Letters: B batch, T/H/W token axes, D width, N = T*H*W tokens, R review tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lingen.model.review import review_tokens
from lingen.model.scans import ROTATION, ScanOrder, from_sequence, to_sequence


class MABranch(nn.Module):
    """Review and full tokens, each through the layer's scan -> Mamba -> inverse scan of the full tokens.

    Args:
        mamba: BidirectionalMamba2 or BidirectionalMamba1.
        scan: one of lingen.model.scans.SCANS.
        layer: index of the layer, which selects the scan's major order.
        review_pool: pooling (T, H, W) of the review tokens; None: no review tokens.
        review_both_passes: append a copy of the review for the reversed pass.
    """

    def __init__(
        self,
        mamba: nn.Module,
        scan: str,
        layer: int,
        review_pool: tuple[int, int, int] | None,
        review_both_passes: bool = True,
    ):
        super().__init__()
        # The place in the cycle of scans, not the layer's number: layers of one place then share a compiled program.
        self.mamba, self.scan, self.layer = mamba, scan, layer % len(ROTATION)
        self.review_pool, self.review_both_passes = review_pool, review_both_passes

    def forward(self, x_BTHWD: Tensor, order: ScanOrder | None = None) -> Tensor:
        """(B, T, H, W, D) -> the same shape. `order`: for scans that need an index."""
        _, T, H, W, _ = x_BTHWD.shape
        index_N, inverse_N, review_R = order or (None, None, None)
        tokens_BND = to_sequence(x_BTHWD, self.scan, self.layer, index_N)
        before = after = 0
        if self.review_pool is not None:
            review_BRD = to_sequence(review_tokens(x_BTHWD, self.review_pool), self.scan, self.layer, review_R)
            before = review_BRD.shape[1]
            after = before if self.review_both_passes else 0
            # Here the permuted view is read: a single copy does both the scan and the concatenation.
            parts = [review_BRD, tokens_BND, review_BRD] if after else [review_BRD, tokens_BND]
            tokens_BND = torch.cat(parts, dim=1)
        return from_sequence(self.mamba(tokens_BND, before, after), (T, H, W), self.scan, self.layer, inverse_N)


class MATE(nn.Module):
    """The sum of the two branches; ablations leave one out."""

    def __init__(self, ma: nn.Module | None, tesa: nn.Module | None):
        super().__init__()
        assert ma is not None or tesa is not None
        self.ma, self.tesa = ma, tesa

    def forward(self, x_BTHWD: Tensor, order: ScanOrder | None = None) -> Tensor:
        """(B, T, H, W, D) -> the same shape. `order`: for scans that need an index."""
        if self.ma is None:
            assert self.tesa is not None
            return self.tesa(x_BTHWD)
        global_BTHWD = self.ma(x_BTHWD, order)
        return global_BTHWD if self.tesa is None else global_BTHWD + self.tesa(x_BTHWD)
