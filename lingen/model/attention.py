"""Softmax attention: the kernel call, full self-attention (the DiT baseline) and cross-attention to text.

Letters: B batch, N query tokens, L key tokens, H heads, P head dim, D width.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingen.model.norms import RMSNorm

ATTENTION_BACKENDS = ("sdpa", "flash_attn")


def check_attention_backend(name: str) -> None:
    """Raises ValueError for an unknown backend or one whose package is missing."""
    if name not in ATTENTION_BACKENDS:
        raise ValueError(f"attention_backend: {name!r} is unknown; choose one of {', '.join(ATTENTION_BACKENDS)}")
    if name == "flash_attn" and importlib.util.find_spec("flash_attn") is None:
        raise ValueError("attention_backend: flash_attn is not installed; pip install flash-attn, or use sdpa")


def attention(q_BNHP: Tensor, k_BLHP: Tensor, v_BLHP: Tensor, mask_BL: Tensor | None = None, backend="sdpa") -> Tensor:
    """softmax(q k^T / sqrt(P)) v, (B, N, H, P). Keys whose mask is False are not seen.

    SDPA picks cuDNN, Flash, memory-efficient or plain kernels itself. flash_attn serves CUDA, half precision and no
    mask; the rest of a model that asks for it goes through SDPA.
    """
    half = q_BNHP.dtype in (torch.float16, torch.bfloat16)
    if backend == "flash_attn" and q_BNHP.is_cuda and half and mask_BL is None:
        from flash_attn import flash_attn_func

        return flash_attn_func(q_BNHP, k_BLHP, v_BLHP)
    q, k, v = (z.transpose(1, 2) for z in (q_BNHP, k_BLHP, v_BLHP))
    mask = None if mask_BL is None else mask_BL[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class SelfAttention(nn.Module):
    """Full attention over all tokens: what DiT-4B has in MATE's place."""

    def __init__(self, width: int, heads: int, backend: str = "sdpa"):
        super().__init__()
        self.heads, self.backend = heads, backend
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BTHWD: Tensor, order: None = None) -> Tensor:
        """(B, T, H, W, D) -> the same shape. `order` is what MATE takes in the same place; attention has none."""
        q, k, v = self.qkv(x_BTHWD).flatten(1, 3).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.out(attention(q, k, v, backend=self.backend).flatten(2)).view_as(x_BTHWD)


class CrossAttention(nn.Module):
    """Attention of the video tokens to the text tokens, with a plain RMSNorm before it and no adaLN."""

    def __init__(self, width: int, heads: int, backend: str = "sdpa"):
        super().__init__()
        self.heads, self.backend = heads, backend
        self.norm = RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)  # no gate here: this makes a fresh layer the identity

    def forward(self, x_BTHWD: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        q = self.q(self.norm(x_BTHWD)).flatten(1, 3).unflatten(-1, (self.heads, -1))
        k, v = self.kv(text_BLD).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.out(attention(q, k, v, mask_BL, self.backend).flatten(2)).view_as(x_BTHWD)
