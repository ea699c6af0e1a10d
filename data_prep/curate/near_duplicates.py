"""Near-duplicates across the whole set: the same footage at another size or bit rate, or trimmed differently.

With embeddings, two clips are the same when their mean embeddings nearly are (SemDeDup, Abbas et al. 2023). Without, by
perceptual hash: when at least half the stills of the shorter one have a match in the other. Spans of one file are never
duplicates of each other: a fixed camera would lose all but one.

Clips are taken best first, and each is compared with those that stay: of a group of the same footage the best clip
stays, and a chain of slightly different clips does not collapse into one.

N: clips; D: embedding width; V: distinct hashes.
"""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from data_prep.curate.candidates import Candidates
from data_prep.curate.ledger import Ledger
from lingen.io.manifest import digest

FLAT_CONTRAST = 0.03
"""Stills with less contrast than this (fades, black) hash to noise and match anything."""
CHUNK = 2048
"""Similarities of CHUNK x CHUNK clips are in memory at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DuplicateConfig:
    max_bits: int | None = 5
    """Perceptual hashes (64 bits) at most this many bits apart show the same picture. None: no near-duplicate removal
    by hash."""
    min_cosine: float | None = 0.97
    """With embeddings: clips whose mean embeddings are at least this similar are the same. None: no near-duplicate
    removal by embedding."""

    def __post_init__(self):
        if self.max_bits is not None and not 0 <= self.max_bits <= 16:
            raise ValueError(f"--duplicates.max-bits: {self.max_bits} is not between 0 and 16")
        if self.min_cosine is not None and not 0 < self.min_cosine <= 1:
            raise ValueError(f"--duplicates.min-cosine: {self.min_cosine} is not above 0 and at most 1")


def drop_near_duplicates(found: Candidates, ledger: Ledger, config: DuplicateConfig) -> None:
    """Drop near-duplicates among the clips kept so far; the one with the most pixels stays, then the technically best.

    Images and videos are compared among themselves.
    """
    compared = ledger.kept
    kept = np.flatnonzero(compared)
    rank = found.array("short_side") * 100 + found.array("technical")
    files = found.table["content_hash"].combine_chunks().dictionary_encode().indices.to_numpy()
    verdict, reason, detail = (np.full(ledger.count, text, dtype=object) for text in ("keep", "", ""))
    for of_media in (found.images, found.videos):
        here = kept[of_media[kept]]
        for i, stays in _find(found, here, files[here], rank[here], config).items():
            verdict[here[i]], reason[here[i]] = "drop", "near_duplicate"
            detail[here[i]] = f"the same footage as {found.value('clip_id', here[stays])}"
    ledger.decide("near_duplicate", verdict, reason, detail, config_hash=digest(config), where=compared)


def _find(
    found: Candidates, at: np.ndarray, files: np.ndarray, rank: np.ndarray, config: DuplicateConfig
) -> dict[int, int]:
    """As near_duplicates_by_hash, for the clips `at`; by embedding where all of them have one."""
    embeddings = found.embeddings(at)
    if embeddings is not None and config.min_cosine is not None:
        return near_duplicates_by_embedding(embeddings, files, rank, config.min_cosine)
    if embeddings is None and config.max_bits is not None and len(at):
        hashes, contrasts = (found.table[n].take(pa.array(at)).combine_chunks() for n in ("hashes", "contrasts"))
        return near_duplicates_by_hash(hashes, contrasts, files, rank, config.max_bits)
    return {}


def near_duplicates_by_hash(
    hashes: pa.ListArray, contrasts: pa.ListArray, files: np.ndarray, rank: np.ndarray, max_bits: int
) -> dict[int, int]:
    """Find the clips to drop by the perceptual hashes of their stills.

    Args:
        hashes: uint64, of each of the N clips' stills.
        contrasts: float, of the same stills.
        files: (N,) identifies each clip's file.
        rank: (N,) the highest stays, of equals the first.
        max_bits: bits by which hashes of the same picture may differ.

    Returns:
        clip to drop -> the clip of the same footage, from another file, that stays.
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
    holders: dict[int, array[int]] = defaultdict(lambda: array("q"))  # picture -> staying clips that show it
    out: dict[int, int] = {}
    for i in order.tolist():
        mine = [p for p in picture[first[i] : first[i + 1]].tolist() if p in near]
        if not mine:
            continue  # nothing else looks like it, as with nearly all clips
        others, matched = _matched(mine, near, holders, stills[i], stills)
        same = others[(matched * 2 >= np.minimum(stills[i], stills[others])) & (files[others] != files[i])]
        if len(same):
            out[i] = int(same[place[same].argmin()])
        else:
            for p in mine:
                holders[p].append(i)
    return out


def _matched(
    mine: list[int], near: Mapping[int, list[int]], holders: Mapping[int, array[int]], count: int, stills: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(staying clips that share a picture with `mine`, how many stills of the shorter of the two match the other)."""

    def clips_with(pictures: Iterable[int]) -> np.ndarray:
        found = [np.frombuffer(holders[q], np.int64).copy() for q in pictures if q in holders]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    others, mine_matched = np.unique(np.concatenate([np.unique(clips_with(near[p])) for p in mine]), return_counts=True)
    _, theirs_matched = np.unique(clips_with({q for p in mine for q in near[p]}), return_counts=True)
    return others, np.where(count <= stills[others], mine_matched, theirs_matched)


def near_pairs(values: np.ndarray, max_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Find all pairs (i < j) of distinct uint64 values (V,) at most max_bits apart, as two arrays.

    Exact multi-index hashing (Norouzi et al. 2012): the 64 bits are cut into so many bands that one of them differs in
    at most one bit, so that sorting by that band without that bit brings the pair together. Time V log V unless many
    are alike.
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


def near_duplicates_by_embedding(
    embeddings: np.ndarray, files: np.ndarray, rank: np.ndarray, min_cosine: float
) -> dict[int, int]:
    """Find the clips to drop by their mean embeddings.

    Args:
        embeddings: float32 (N, D), each of length 1.
        files: (N,) identifies each clip's file.
        rank: (N,) the highest stays, of equals the first.
        min_cosine: least similarity of the same footage.

    Returns:
        clip to drop -> the clip of the same footage, from another file, that stays.
    """
    order = np.argsort(-rank, kind="stable")
    embeddings, files, count = embeddings[order], files[order], len(order)
    same_as = np.full(count, count)  # the best clip of the same footage; `count`: the clip stays
    for start in range(0, count, CHUNK):
        here = slice(start, start + CHUNK)
        for there in (slice(s, s + CHUNK) for s in range(0, start + 1, CHUNK)):
            same = embeddings[here] @ embeddings[there].T >= min_cosine
            same &= files[here, None] != files[None, there]
            if there != here:
                same &= same_as[None, there] == count  # only those that stay
                first = np.where(same.any(1), same.argmax(1) + there.start, count)
                same_as[here] = np.minimum(same_as[here], first)
                continue
            for k in np.flatnonzero(np.tril(same, -1).any(1)):
                stay = np.flatnonzero(same[k, :k] & (same_as[start : start + k] == count))
                if same_as[start + k] == count and len(stay):
                    same_as[start + k] = start + stay[0]
    out = np.flatnonzero(same_as < count)
    return dict(zip(order[out].tolist(), order[same_as[out]].tolist()))
