"""Softmax attention: the kernel call, full self-attention (the DiT baseline) and cross-attention to text.

Letters: B batch, T/H/W token axes, N query tokens, L key tokens, A attention heads, P head dim, D width.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingen.model.norms import RMSNorm

ATTENTION_BACKENDS = ("sdpa", "flash_attn")


def check_attention_backend(name: str) -> None:
    """Check that an attention backend can be used here.

    Raises:
        ValueError: the backend is unknown, or its package is missing.
    """
    if name not in ATTENTION_BACKENDS:
        raise ValueError(f"attention_backend: {name!r} is unknown; choose one of {', '.join(ATTENTION_BACKENDS)}")
    if name == "flash_attn" and importlib.util.find_spec("flash_attn") is None:
        raise ValueError("attention_backend: flash_attn is not installed; pip install flash-attn, or use sdpa")


def attention(
    q_BNAP: Tensor, k_BLAP: Tensor, v_BLAP: Tensor, mask_BL: Tensor | None = None, backend: str = "sdpa"
) -> Tensor:
    """softmax(q k^T / sqrt(P)) v.

    SDPA chooses between cuDNN, Flash, memory-efficient and plain kernels. flash_attn supports only CUDA, half precision
    and no mask; every other call falls back to SDPA.

    Args:
        q_BNAP: queries (B, N, A, P).
        k_BLAP: keys (B, L, A, P).
        v_BLAP: values (B, L, A, P).
        mask_BL: bool, False on keys to ignore; None: attend to all.
        backend: one of ATTENTION_BACKENDS.

    Returns:
        (B, N, A, P).
    """
    half = q_BNAP.dtype in (torch.float16, torch.bfloat16)
    if backend == "flash_attn" and q_BNAP.is_cuda and half and mask_BL is None:
        from flash_attn import flash_attn_func

        return flash_attn_func(q_BNAP, k_BLAP, v_BLAP)
    q, k, v = (z.transpose(1, 2) for z in (q_BNAP, k_BLAP, v_BLAP))
    mask = None if mask_BL is None else mask_BL[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class SelfAttention(nn.Module):
    """Full attention over all tokens, which DiT-4B has in place of MATE."""

    def __init__(self, width: int, heads: int, backend: str = "sdpa"):
        super().__init__()
        self.heads, self.backend = heads, backend
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BTHWD: Tensor, order: None = None) -> Tensor:
        """(B, T, H, W, D) -> the same shape. `order` mirrors MATE's signature and is unused."""
        q, k, v = self.qkv(x_BTHWD).flatten(1, 3).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.out(attention(q, k, v, backend=self.backend).flatten(2)).view_as(x_BTHWD)


class CrossAttention(nn.Module):
    """Attention from video tokens to text tokens, after a plain RMSNorm without adaLN."""

    def __init__(self, width: int, heads: int, backend: str = "sdpa"):
        super().__init__()
        self.heads, self.backend = heads, backend
        self.norm = RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)  # there is no gate: this makes a fresh layer the identity

    def forward(self, x_BTHWD: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Video (B, T, H, W, D), text (B, L, D) and its mask (B, L) bool -> (B, T, H, W, D)."""
        q = self.q(self.norm(x_BTHWD)).flatten(1, 3).unflatten(-1, (self.heads, -1))
        k, v = self.kv(text_BLD).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.out(attention(q, k, v, mask_BL, self.backend).flatten(2)).view_as(x_BTHWD)
