"""Embeddings of captions as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_text(embeddings_LD: Sequence[Tensor], drop: Sequence[bool] | None = None) -> tuple[Tensor, Tensor]:
    """One encoder's embeddings as embedding_BLD (zero where padded) and mask_BL (True on tokens).

    Rows named by `drop` are all zero and all False: the denoiser reads them as "no text".
    """
    drop = drop or [False] * len(embeddings_LD)
    longest = max(e.shape[0] for e in embeddings_LD)
    embedding_BLD = torch.zeros(len(embeddings_LD), longest, embeddings_LD[0].shape[1])
    mask_BL = torch.zeros(len(embeddings_LD), longest, dtype=torch.bool)
    for row, (embedding_LD, dropped) in enumerate(zip(embeddings_LD, drop)):
        if not dropped:
            embedding_BLD[row, : len(embedding_LD)] = embedding_LD
            mask_BL[row, : len(embedding_LD)] = True
    return embedding_BLD, mask_BL
