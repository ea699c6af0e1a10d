"""Caption embeddings as one padded batch. Letters: B batch, L text tokens, E embedding width of the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_text(embeddings_LE: Sequence[Tensor], drop: Sequence[bool] | None = None) -> tuple[Tensor, Tensor]:
    """Pad the embeddings that one encoder made of B captions.

    Args:
        embeddings_LE: one (L_i, E) per caption.
        drop: True for captions to drop: their rows are all zero and masked everywhere, which the denoiser reads as "no
            text". None: keep all.

    Returns:
        Embedding (B, L, E), zero where padded, and mask (B, L) bool, True on tokens; L is the longest L_i.
    """
    drop = drop or [False] * len(embeddings_LE)
    longest = max(e.shape[0] for e in embeddings_LE)
    embedding_BLE = torch.zeros(len(embeddings_LE), longest, embeddings_LE[0].shape[1])
    mask_BL = torch.zeros(len(embeddings_LE), longest, dtype=torch.bool)
    for row, (embedding_LE, dropped) in enumerate(zip(embeddings_LE, drop)):
        if not dropped:
            embedding_BLE[row, : len(embedding_LE)] = embedding_LE
            mask_BL[row, : len(embedding_LE)] = True
    return embedding_BLE, mask_BL
