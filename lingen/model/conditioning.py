"""What steers the denoiser: the timestep through adaLN, and any number of text encoders as one token sequence.

Letters: B batch, L text tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimestepEmbedding(nn.Module):
    """Sinusoid -> MLP. t in [0, 1] (B,) -> (B, D)."""

    FREQUENCIES = 256

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        # Float32 sinusoids whatever the dtype of t: bfloat16 cannot tell 0.500 from 0.501.
        half = self.FREQUENCIES // 2
        frequency = torch.exp(-math.log(1e4) * torch.arange(half, device=t_B.device, dtype=torch.float32) / half)
        angle = 1000.0 * t_B.float()[:, None] * frequency
        sinusoid = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.mlp(sinusoid.to(self.mlp[0].weight.dtype))


class AdaLN(nn.Module):
    """Timestep embedding (B, D) -> six modulation vectors (B, 6, D): shift, scale, gate for the mixer, then the FFN.

    One is shared by all layers, each adding a table of its own (adaLN-single, PixArt-alpha), or every layer has one
    (DiT). The gates start at zero.
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 6 * width)
        with torch.no_grad():
            for gate in (2, 5):
                self.linear.weight[gate * width : (gate + 1) * width] = 0.0
                self.linear.bias[gate * width : (gate + 1) * width] = 0.0

    def forward(self, embedding_BD: Tensor) -> Tensor:
        return self.linear(F.silu(embedding_BD)).unflatten(-1, (6, -1))


class TextProjection(nn.Module):
    """One Linear + LayerNorm per encoder, concatenated as one cross-attention sequence (MG sec. 3.1.3).

    A learned null token comes first. It is visible only in rows without any text: the unconditional half of
    classifier-free guidance. So no row is ever fully masked.
    """

    def __init__(self, text_dims: tuple[int, ...], width: int):
        super().__init__()
        self.encoders = nn.ModuleList(nn.Sequential(nn.Linear(dim, width), nn.LayerNorm(width)) for dim in text_dims)
        self.null = nn.Parameter(torch.randn(width))  # the scale of the LayerNorm outputs beside it

    def forward(self, text: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Per encoder an (embedding (B, L_i, dim_i), mask (B, L_i) bool) -> tokens (B, 1 + sum L_i, D) and their mask.

        Raises:
            ValueError: another number of encoders or other dims than text_dims.
        """
        if len(text) != len(self.encoders):
            raise ValueError(
                f"text: {len(text)} encoder outputs given, the model has text_dims for {len(self.encoders)}; "
                "pass one (embedding, mask) per encoder"
            )
        tokens, masks = [], []
        for project, (embedding_BLD, mask_BL) in zip(self.encoders, text):
            dim = project[0].in_features
            if embedding_BLD.shape[-1] != dim:
                raise ValueError(
                    f"text: an embedding of width {embedding_BLD.shape[-1]} where text_dims says {dim}; "
                    "use the encoder the model was made for, or change text_dims"
                )
            tokens.append(project(embedding_BLD.to(project[0].weight.dtype)))
            masks.append(mask_BL)
        mask_BL = torch.cat(masks, dim=1)
        null_B1D = self.null.to(tokens[0].dtype).expand(mask_BL.shape[0], 1, -1)
        no_text_B1 = ~mask_BL.any(dim=1, keepdim=True)
        # Padding holds whatever the loader left there; a NaN times a zero attention weight would still be a NaN.
        tokens_BLD = torch.cat(tokens, dim=1).masked_fill(~mask_BL[..., None], 0.0)
        return torch.cat([null_B1D, tokens_BLD], dim=1), torch.cat([no_text_B1, mask_BL], dim=1)
