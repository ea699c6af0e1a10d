"""Concept balancing: clips are grouped by what they show, and large concepts are thinned.

A clip's chance to stay falls with the square root of its concept's size, so that a concept a hundred times larger ends
ten times larger (Movie Gen, section 3.2.1: sampling by the inverse square root of the cluster size).

N: clips; D: embedding width; K: concepts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from data_prep.curate.candidates import Candidates
from data_prep.curate.ledger import Ledger
from lingen.io.manifest import digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    keep: float | None = None
    """Share of the clips to keep, such as 0.6. None: no balancing. Needs embeddings (--aesthetic.weights)."""
    clusters: int = 0
    """Number of concepts; 0 for the square root of half the number of clips."""
    seed: int = 0
    """A different seed keeps different clips."""

    def __post_init__(self):
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"--balance.keep: {self.keep} is not above 0 and at most 1")


def balance_concepts(found: Candidates, ledger: Ledger, config: BalanceConfig) -> np.ndarray | None:
    """Thin large concepts among the clips kept so far, and record it in the ledger.

    Returns:
        The concept of each clip, int (N,), -1 for clips that were dropped before; None without balancing.
    """
    if config.keep is None:
        return None
    concepts = np.full(ledger.count, -1)
    balanced = ledger.kept
    kept = np.flatnonzero(balanced)
    if not len(kept):
        return concepts
    embeddings = found.embeddings(kept)
    assert embeddings is not None, "CurateConfig refuses balancing without embeddings"
    concepts[kept] = find_concepts(embeddings, config.clusters, config.seed)
    stays = np.ones(ledger.count, bool)
    stays[kept] = thin(found.array("clip_id")[kept].tolist(), concepts[kept], config.keep, config.seed)
    verdict, reason = np.where(stays, "keep", "drop"), np.where(stays, "", "balanced_out")
    detail = np.array([f"concept {k}" for k in concepts], dtype=object)
    ledger.decide("balance", verdict, reason, detail, config_hash=digest(config), where=balanced)
    return concepts


def find_concepts(embeddings: np.ndarray, count: int, seed: int = 0, rounds: int = 25) -> np.ndarray:
    """Group clips into concepts by spherical k-means.

    Args:
        embeddings: float32 (N, D), each of length 1.
        count: number of concepts K; 0 for sqrt(N / 2).

    Returns:
        The concept of each clip, int (N,).
    """
    clips = len(embeddings)
    k = min(clips, count or max(1, round((clips / 2) ** 0.5)))
    rng = np.random.default_rng(seed)
    centres = embeddings[_far_apart(embeddings, k, rng)]  # K, D
    concepts = np.zeros(clips, np.int64)
    for _ in range(rounds):
        before, concepts = concepts, (embeddings @ centres.T).argmax(1)
        if (concepts == before).all():
            break
        sums = np.zeros_like(centres)
        np.add.at(sums, concepts, embeddings)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-9), centres)
    return concepts


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


def thin(clip_ids: Sequence[str], concepts: np.ndarray, keep: float, seed: int = 0) -> np.ndarray:
    """Choose the clips that stay: bool (N,), round(keep * N) of them.

    Weighted sampling without replacement (Efraimidis and Spirakis 2006) with weights 1/sqrt(concept size). The random
    number of each clip is a hash of its id, so that adding clips elsewhere hardly changes which ones stay.
    """
    sizes = np.bincount(concepts)
    weights = 1 / np.sqrt(sizes[concepts])
    uniform = np.array([uniform_hash(clip_id, seed) for clip_id in clip_ids])
    order = np.argsort(-np.log(uniform) / weights, kind="stable")
    stays = np.zeros(len(clip_ids), bool)
    stays[order[: round(keep * len(clip_ids))]] = True
    return stays


def uniform_hash(name: str, seed: int) -> float:
    """A number in (0, 1), uniform over names."""
    value = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
    return (value + 1) / (2**64 + 2)
