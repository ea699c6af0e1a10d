"""Concept balancing: clips are clustered by what they show, and large clusters are thinned.

A clip's chance to stay falls with the square root of its cluster's size, so that a cluster a hundred times larger ends
ten times larger (Movie Gen, section 3.2.1: sampling by the inverse square root of the cluster size).

N: clips; D: embedding width; K: clusters.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    keep: float | None = None
    """Share of the clips that stays, such as 0.6. None: no balancing. Needs embeddings (--aesthetic.weights)."""
    clusters: int = 0
    """Number of concepts; 0 for the square root of half the number of clips."""
    seed: int = 0
    """Another seed keeps other clips."""

    def __post_init__(self):
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"--balance.keep: {self.keep} is not above 0 and at most 1")


def cluster(embeddings: np.ndarray, clusters: int, seed: int = 0, rounds: int = 25) -> np.ndarray:
    """Spherical k-means: cluster of each clip, int (N,). embeddings: float32 (N, D), each of length 1."""
    count = len(embeddings)
    k = min(count, clusters or max(1, round((count / 2) ** 0.5)))
    rng = np.random.default_rng(seed)
    centres = embeddings[_far_apart(embeddings, k, rng)]  # K, D
    which = np.zeros(count, np.int64)
    for _ in range(rounds):
        before, which = which, (embeddings @ centres.T).argmax(1)
        if (which == before).all():
            break
        sums = np.zeros_like(centres)
        np.add.at(sums, which, embeddings)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-9), centres)
    return which


def _far_apart(embeddings: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    """Starting points of k-means++: each drawn with the square of its distance to those drawn before."""
    chosen = [int(rng.integers(len(embeddings)))]
    distance = np.full(len(embeddings), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.maximum(1 - embeddings @ embeddings[chosen[-1]], 0))
        weight = distance**2
        if weight.sum() <= 0:
            break
        chosen.append(int(rng.choice(len(embeddings), p=weight / weight.sum())))
    return chosen


def thin(clip_ids: Sequence[str], which: np.ndarray, keep: float, seed: int = 0) -> np.ndarray:
    """Which clips stay: bool (N,), round(keep * N) of them.

    Weighted sampling without replacement (Efraimidis and Spirakis 2006) with weights 1/sqrt(cluster size). The luck of
    each clip comes from its name, so that adding clips elsewhere hardly changes who stays.
    """
    sizes = np.bincount(which)
    weights = 1 / np.sqrt(sizes[which])
    luck = np.array([_luck(name, seed) for name in clip_ids])
    order = np.argsort(-np.log(luck) / weights, kind="stable")
    stays = np.zeros(len(clip_ids), bool)
    stays[order[: round(keep * len(clip_ids))]] = True
    return stays


def _luck(name: str, seed: int) -> float:
    """Uniform in (0, 1)."""
    value = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
    return (value + 1) / (2**64 + 2)
