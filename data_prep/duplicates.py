"""Near-duplicates across the whole set: the same footage again at another size, bit rate or crop of time.

With embeddings two clips are the same when their mean embeddings nearly are (SemDeDup, Abbas et al. 2023). Without, by
perceptual hash: when at least half the stills of the shorter one have a partner in the other. Spans of one file are
never each other's doubles: a fixed camera would lose all but one.

N: clips; D: embedding width.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

BANDS = 4
"""A 64-bit hash is looked up by four 16-bit bands: that finds every pair at most 3 bits apart and most at 4 and 5."""
FLAT_CONTRAST = 0.03
"""Stills with less contrast than this (fades, black) hash to noise and match anything."""
CHUNK = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class DuplicateConfig:
    max_bits: int | None = 5
    """Perceptual hashes (64 bits) at most this many bits apart are of the same picture. None: no near-duplicate removal
    by hash."""
    min_cosine: float | None = 0.97
    """With embeddings: clips whose mean embeddings are at least this similar are the same. None: not by embedding."""

    def __post_init__(self):
        if self.max_bits is not None and not 0 <= self.max_bits <= 16:
            raise ValueError(f"--duplicates.max-bits: {self.max_bits} is not between 0 and 16")
        if self.min_cosine is not None and not 0 < self.min_cosine <= 1:
            raise ValueError(f"--duplicates.min-cosine: {self.min_cosine} is not above 0 and at most 1")


def doubles(pairs: Sequence[tuple[int, int]], rank: np.ndarray) -> dict[int, int]:
    """From pairs of the same footage to what to leave out: clip -> the clip of its group that stays.

    rank: (N,), the highest of a group stays; of equals the first. Only direct pairs count, so that a chain of slightly
    different clips does not collapse into one.
    """
    partners = defaultdict(set)
    for a, b in pairs:
        partners[a].add(b)
        partners[b].add(a)
    out: dict[int, int] = {}
    stays: set[int] = set()
    for i in sorted(partners, key=lambda i: (-rank[i], i)):
        if i in out:
            continue
        stays.add(i)
        for j in partners[i]:
            if j not in stays:
                out.setdefault(j, i)
    return out


def pairs_by_hash(
    hashes: Sequence[Sequence[int]], contrasts: Sequence[Sequence[float]], files: Sequence[str], max_bits: int
) -> list[tuple[int, int]]:
    """Pairs (i < j) of N clips of different files that show the same pictures.

    hashes, contrasts: of each clip's stills; files: content hash of each clip's file.
    """
    stills = [
        [int(h) for h, c in zip(clip, contrast) if c > FLAT_CONTRAST] for clip, contrast in zip(hashes, contrasts)
    ]
    buckets: dict[tuple[int, int], set[int]] = defaultdict(set)
    for i, clip in enumerate(stills):
        for value in clip:
            for band in range(BANDS):
                buckets[band, value >> (16 * band) & 0xFFFF].add(i)
    found = {
        (a, b)
        for members in buckets.values()
        if len(members) > 1
        for a in members
        for b in members
        if a < b and files[a] != files[b]
    }
    return sorted(pair for pair in found if _same(stills[pair[0]], stills[pair[1]], max_bits))


def _same(a: list[int], b: list[int], max_bits: int) -> bool:
    few, many = sorted((a, b), key=len)
    matched = sum(any((x ^ y).bit_count() <= max_bits for y in many) for x in few)
    return matched >= max(1, (len(few) + 1) // 2)


def pairs_by_embedding(embeddings: np.ndarray, files: Sequence[str], min_cosine: float) -> list[tuple[int, int]]:
    """Pairs (i < j) of clips of different files. embeddings: float32 (N, D), each of length 1."""
    out = []
    for start in range(0, len(embeddings), CHUNK):
        similar = embeddings[start : start + CHUNK] @ embeddings.T >= min_cosine
        for i, j in zip(*np.nonzero(similar)):
            a, b = int(i) + start, int(j)
            if a < b and files[a] != files[b]:
                out.append((a, b))
    return out
