"""Conditioning of the denoiser: the timestep through adaLN, and any number of text encoders as one token sequence.

Letters: B batch, L text tokens, E embedding width of one text encoder, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Text = Sequence[tuple[Tensor, Tensor]]
"""One (embedding_BLE, mask_BL bool) per encoder; a row that is masked everywhere means "no text"."""


class TimestepEmbedding(nn.Module):
    """Sinusoid -> MLP."""

    FREQUENCIES = 256

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        """Times in [0, 1] (B,) -> (B, D)."""
        # Float32 sinusoids whatever the dtype of t: bfloat16 cannot distinguish 0.500 from 0.501.
        half = self.FREQUENCIES // 2
        frequency = torch.exp(-math.log(1e4) * torch.arange(half, device=t_B.device, dtype=torch.float32) / half)
        angle = 1000.0 * t_B.float()[:, None] * frequency
        sinusoid = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.mlp(sinusoid.to(self.mlp[0].get_parameter("weight").dtype))


class AdaLN(nn.Module):
    """Six modulation vectors from the timestep: shift, scale and gate for the mixer, then for the FFN.

    Either all layers share one and each adds its own table (adaLN-single, PixArt-alpha), or every layer has its own
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
        """Timestep embedding (B, D) -> (B, 6, D)."""
        return self.linear(F.silu(embedding_BD)).unflatten(-1, (6, -1))


class TextProjection(nn.Module):
    """One Linear + LayerNorm per encoder, concatenated into one cross-attention sequence (MG sec. 3.1.3).

    A learned null token comes first. It is visible only in rows without any text, the unconditional half of
    classifier-free guidance, so no row is ever fully masked.

    Attributes:
        multiple: pad the sequence, behind the mask, to a multiple of this length: few lengths, few compiled programs.
    """

    def __init__(self, text_dims: tuple[int, ...], width: int):
        super().__init__()
        self.text_dims, self.multiple = text_dims, 1
        self.encoders = nn.ModuleList(nn.Sequential(nn.Linear(dim, width), nn.LayerNorm(width)) for dim in text_dims)
        self.null = nn.Parameter(torch.randn(width))  # on the scale of the LayerNorm outputs beside it

    def forward(self, text: Text) -> tuple[Tensor, Tensor]:
        """Project the outputs of all encoders and concatenate them behind the null token.

        Args:
            text: per encoder i, in the order of text_dims, an embedding (B, L_i, E_i) and its mask (B, L_i) bool.

        Returns:
            Tokens (B, 1 + sum of L_i, D) and their mask (B, 1 + sum of L_i), both with padding up to `multiple`.

        Raises:
            ValueError: the number of encoders or an embedding width differs from text_dims.
        """
        if len(text) != len(self.encoders):
            raise ValueError(
                f"text: {len(text)} encoder outputs given, the model has text_dims for {len(self.encoders)}; "
                "pass one (embedding, mask) per encoder"
            )
        tokens, masks = [], []
        for project, dim, (embedding_BLE, mask_BL) in zip(self.encoders, self.text_dims, text):
            if embedding_BLE.shape[-1] != dim:
                raise ValueError(
                    f"text: an embedding has width {embedding_BLE.shape[-1]} where text_dims has {dim}; "
                    "use the encoders that the model was built for, or change text_dims"
                )
            tokens.append(project(embedding_BLE.to(project.get_parameter("0.weight").dtype)))
            masks.append(mask_BL)
        mask_BL = torch.cat(masks, dim=1)
        null_B1D = self.null.to(tokens[0].dtype).expand(mask_BL.shape[0], 1, -1)
        no_text_B1 = ~mask_BL.any(dim=1, keepdim=True)
        # Padding may contain anything; a NaN times an attention weight of zero would still be a NaN.
        tokens_BLD = torch.cat(tokens, dim=1).masked_fill(~mask_BL[..., None], 0.0)
        tokens_BLD, mask_BL = torch.cat([null_B1D, tokens_BLD], dim=1), torch.cat([no_text_B1, mask_BL], dim=1)
        if padding := -mask_BL.shape[1] % self.multiple:
            tokens_BLD, mask_BL = F.pad(tokens_BLD, (0, 0, 0, padding)), F.pad(mask_BL, (0, padding), value=False)
        return tokens_BLD, mask_BL
