"""How far an input is from the 2^31 elements that kernels with 32-bit offsets can address."""

from __future__ import annotations

INT32_LIMIT = 2**31 - 1

INT32_BACKENDS = frozenset({"mamba_ssm"})
"""fla computes 64-bit offsets, and PyTorch's own operations choose 64 bits when they need them."""


def int32_headroom(
    backend: str, *, batch: int, length: int, heads: int, head_dim: int, state: int, chunk: int = 256
) -> float:
    """The largest offset a kernel forms over 2^31 - 1: above 1 `ssd` splits the input. 0 for 64-bit backends."""
    if backend not in INT32_BACKENDS:
        return 0.0
    return _largest_tensor(batch, length, heads, head_dim, state, chunk) / INT32_LIMIT


def max_tokens(backend: str, *, batch: int, heads: int, head_dim: int, state: int, chunk: int = 256) -> int | None:
    """The longest input of one kernel call (a multiple of the chunk); None when there is no limit.

    Raises:
        ValueError: not even one chunk fits.
    """
    if backend not in INT32_BACKENDS:
        return None
    longest = INT32_LIMIT // _largest_tensor(batch, chunk, heads, head_dim, state, chunk) * chunk
    if longest < chunk:
        raise ValueError(f"batch: one chunk of {chunk} tokens x {batch} rows exceeds 2^31 elements; lower the batch")
    return longest


def _largest_tensor(batch, length, heads, head_dim, state, chunk) -> int:
    """Elements of the largest of: x and y; B and C; the chunk states; the chunk scores. All contiguous."""
    chunks = -(-length // chunk)
    return batch * max(
        length * heads * head_dim, length * state, chunks * heads * head_dim * state, chunks * chunk * chunk
    )
