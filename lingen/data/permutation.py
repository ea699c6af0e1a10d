"""A keyed permutation of 0..n-1 that needs no table, and the hashes that the batch plan's randomness is made of.

A Feistel network with cycle walking (Black and Rogaway 2002): the position of any element is computed on its own.
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 6


def permute(places: np.ndarray, n: int, key: int) -> np.ndarray:
    """Map places by the permutation of 0..n-1 that `key` selects.

    Args:
        places: uint64, each below n.
        n: size of the permuted range.
        key: selects the permutation.

    Returns:
        int64, one element below n per place.
    """
    if n == 1:
        return np.zeros(len(places), np.int64)
    bits = max(6, (n - 1).bit_length())
    low = np.uint64(bits - bits // 2)  # width of the right half; the halves swap widths every round, an even number
    masks = [np.uint64((1 << bits // 2) - 1), np.uint64((1 << (bits - bits // 2)) - 1)] * (_ROUNDS // 2)
    shift, *keys = (np.uint64(k) for k in hash_integers(f"feistel/{key}", 1 + _ROUNDS))
    result = places.astype(np.uint64)
    walking = np.arange(len(result))
    while len(walking):  # cycle walking: the network permutes the next power of two; apply it again until below n
        left, right = result[walking] >> low, result[walking] & masks[1]
        for k, mask in zip(keys, masks):
            left, right = right, left ^ (mix_bits(right ^ k) & mask)
        result[walking] = (left << low) | right
        walking = walking[result[walking] >= n]
    # With few elements the network alone is biased; a keyed rotation makes every position equally likely.
    return ((result + shift % np.uint64(n)) % np.uint64(n)).astype(np.int64)


def mix_bits(x: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 values with the output function of SplitMix64 (Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around silently
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_integers(name: str, count: int) -> list[int]:
    """`count` 64-bit integers that depend only on a name."""
    data = hashlib.blake2b(name.encode(), digest_size=8 * count).digest()
    return [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(count)]
