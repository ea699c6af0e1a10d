"""How far an input is from the 2^31 elements that kernels with 32-bit offsets can address."""

from __future__ import annotations

INT32_LIMIT = 2**31 - 1

INT32_BACKENDS = frozenset({"mamba_ssm"})
"""fla computes 64-bit offsets, and PyTorch's own operations use 64 bits when they need them."""


def int32_headroom(
    backend: str, *, batch: int, length: int, heads: int, head_dim: int, state: int, chunk: int = 256
) -> float:
    """The largest offset that a kernel computes, over 2^31 - 1. Above 1, `ssd` splits the input.

    Args:
        backend: name of the backend; the result is 0 for 64-bit backends.
        batch: rows.
        length: tokens per row.
        heads: heads of the scan.
        head_dim: channels per head.
        state: state size.
        chunk: tokens per chunk.
    """
    if backend not in INT32_BACKENDS:
        return 0.0
    return _largest_tensor(batch, length, heads, head_dim, state, chunk) / INT32_LIMIT


def max_tokens(backend: str, *, batch: int, heads: int, head_dim: int, state: int, chunk: int = 256) -> int | None:
    """The longest input of one kernel call, a multiple of the chunk; None for 64-bit backends.

    Args:
        backend: name of the backend.
        batch: rows.
        heads: heads of the scan.
        head_dim: channels per head.
        state: state size.
        chunk: tokens per chunk.

    Raises:
        ValueError: not even one chunk fits.
    """
    if backend not in INT32_BACKENDS:
        return None
    longest = INT32_LIMIT // _largest_tensor(batch, chunk, heads, head_dim, state, chunk) * chunk
    if longest < chunk:
        raise ValueError(f"batch: one chunk of {chunk} tokens x {batch} rows exceeds 2^31 elements; lower the batch")
    return longest


def _largest_tensor(batch: int, length: int, heads: int, head_dim: int, state: int, chunk: int) -> int:
    """Elements of the largest of: x and y; B and C; the chunk states; the chunk scores. All contiguous."""
    chunks = -(-length // chunk)
    return batch * max(
        length * heads * head_dim, length * state, chunks * heads * head_dim * state, chunks * chunk * chunk
    )
