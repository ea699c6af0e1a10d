"""Near-duplicates across the whole set: the same footage again at another size, bit rate or crop of time.

With embeddings two clips are the same when their mean embeddings nearly are (SemDeDup, Abbas et al. 2023). Without, by
perceptual hash: when at least half the stills of the shorter one have a partner in the other. Spans of one file are
never each other's doubles: a fixed camera would lose all but one.

Clips are taken best first, and each is compared with those that stay: of a group of the same footage its best member
stays, and a chain of slightly different clips does not collapse into one.

N: clips; D: embedding width.
"""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

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


def doubles_by_hash(
    hashes: pa.ListArray, contrasts: pa.ListArray, files: np.ndarray, rank: np.ndarray, max_bits: int
) -> dict[int, int]:
    """Which of N clips to leave out: clip -> the one of the same pictures, of another file, that stays.

    hashes, contrasts: of each clip's stills; files: (N,) what tells the clips' files apart; rank: (N,), the highest
    stays, of equals the first.
    """
    sharp = contrasts.flatten().to_numpy() > FLAT_CONTRAST
    clip = np.repeat(np.arange(len(hashes)), hashes.value_lengths().to_numpy())[sharp]
    values, picture = np.unique(hashes.flatten().to_numpy()[sharp], return_inverse=True)
    near: dict[int, list[int]] = defaultdict(list)
    for a, b in zip(*(side.tolist() for side in near_pairs(values, max_bits))):
        near[a].append(b)
        near[b].append(a)
    for a in np.flatnonzero(np.bincount(picture) > 1).tolist():
        near[a].append(a)
    first = np.searchsorted(clip, np.arange(len(hashes) + 1))
    stills = np.diff(first)
    place = np.empty(len(hashes), np.int64)
    order = np.argsort(-rank, kind="stable")
    place[order] = np.arange(len(order))
    holders: dict[int, array] = defaultdict(lambda: array("q"))  # picture -> staying clips that show it
    out: dict[int, int] = {}
    for i in order.tolist():
        mine = [p for p in picture[first[i] : first[i + 1]].tolist() if p in near]
        if not mine:
            continue  # as nearly all: nothing else looks like it
        others, matched = _matched(mine, near, holders, stills[i], stills)
        same = others[(matched * 2 >= np.minimum(stills[i], stills[others])) & (files[others] != files[i])]
        if len(same):
            out[i] = int(same[place[same].argmin()])
        else:
            for p in mine:
                holders[p].append(i)
    return out


def _matched(mine: list[int], near: dict, holders: dict, count: int, stills: np.ndarray) -> tuple[np.ndarray, ...]:
    """(clips that stay and share a picture with `mine`, how many stills of the shorter clip of the two have a partner
    in the other)."""

    def who(pictures: Iterable[int]) -> np.ndarray:
        found = [np.frombuffer(holders[q], np.int64).copy() for q in pictures if q in holders]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    others, mine_matched = np.unique(np.concatenate([np.unique(who(near[p])) for p in mine]), return_counts=True)
    _, theirs_matched = np.unique(who({q for p in mine for q in near[p]}), return_counts=True)
    return others, np.where(count <= stills[others], mine_matched, theirs_matched)


def near_pairs(values: np.ndarray, max_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (i < j) of distinct uint64 values (n,) at most max_bits apart, as two arrays.

    Multi-index hashing (Norouzi et al. 2012), exact: the 64 bits are cut into so many bands that one of them differs in
    at most one bit, so the pair meets when that band, without that bit, is sorted. Time n log n unless many are alike.
    """
    bands = max_bits // 2 + 1
    edges = [64 * k // bands for k in range(bands + 1)]
    found = []
    for low, high in itertools.pairwise(edges):
        for bit in range(low, high):
            mask = np.uint64((1 << high) - (1 << low) - (1 << bit))
            order = np.argsort(values & mask, kind="stable")
            key, sorted_values = (values & mask)[order], values[order]
            left = np.arange(len(values) - 1)
            for step in itertools.count(1):
                left = left[left + step < len(values)]
                left = left[key[left] == key[left + step]]
                if not len(left):
                    break
                close = left[np.bitwise_count(sorted_values[left] ^ sorted_values[left + step]) <= max_bits]
                found.append(np.sort(np.stack([order[close], order[close + step]]), axis=0))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1) if found else np.zeros((2, 0), np.int64)
    return pairs[0], pairs[1]


def doubles_by_embedding(
    embeddings: np.ndarray, files: np.ndarray, rank: np.ndarray, min_cosine: float
) -> dict[int, int]:
    """As doubles_by_hash. embeddings: float32 (N, D), each of length 1; the similarities of CHUNK x CHUNK clips are in
    memory at once."""
    order = np.argsort(-rank, kind="stable")
    embeddings, files, none = embeddings[order], files[order], len(order)
    double_of = np.full(none, none)
    for start in range(0, none, CHUNK):
        here = slice(start, start + CHUNK)
        for there in (slice(s, s + CHUNK) for s in range(0, start + 1, CHUNK)):
            same = embeddings[here] @ embeddings[there].T >= min_cosine
            same &= files[here, None] != files[None, there]
            if there != here:
                same &= double_of[None, there] == none  # only those that stay
                first = np.where(same.any(1), same.argmax(1) + there.start, none)
                double_of[here] = np.minimum(double_of[here], first)
                continue
            for k in np.flatnonzero(np.tril(same, -1).any(1)):
                stay = np.flatnonzero(same[k, :k] & (double_of[start : start + k] == none))
                if double_of[start + k] == none and len(stay):
                    double_of[start + k] = start + stay[0]
    out = np.flatnonzero(double_of < none)
    return dict(zip(order[out].tolist(), order[double_of[out]].tolist()))
