"""The decisions over candidate clips, in the order in which the ledger tells them. Nothing is read or decoded here."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_prep.balance import BalanceConfig, cluster, thin
from data_prep.clips import Candidates
from data_prep.duplicates import DuplicateConfig, doubles, pairs_by_embedding, pairs_by_hash
from data_prep.filter import Outcome, apply
from data_prep.ledger import Ledger
from data_prep.quality import QualityConfig, decisions, propose
from data_prep.scores import SCORES
from lingen.manifest import digest


@dataclasses.dataclass
class Judgement:
    """ledger; outcomes of the thresholds; clusters (concept of each of the N clips, -1 without one, None when there is
    no balancing) and balanced (bool (N,): clips that were there to be balanced); quality: (clip, rank, taken) of the
    proposed quality set, best first."""

    ledger: Ledger
    outcomes: list[Outcome]
    clusters: np.ndarray | None = None
    balanced: np.ndarray | None = None
    quality: list[tuple[int, float, bool]] = dataclasses.field(default_factory=list)


def judge(found: Candidates, config) -> Judgement:
    """Every decision over the candidates, in order. config: CurateConfig."""
    ledger = Ledger(found.columns["clip_id"], found.row, found.columns["uri"])
    hashes = {
        "source": digest(config.source),
        "license": digest(config.license),
        "read": digest([config.examine, config.decode]),
        "duplicate": "",
        "spans": digest([config.shots, config.spans]),
    }
    stage_of = np.array([stop[0] if stop else "" for stop in found.stopped], dtype=object)
    going = np.ones(ledger.count, bool)
    for stage, config_hash in hashes.items():
        here = stage_of == stage
        ledger.decide(stage, "keep", config_hash=config_hash, where=going & ~here)
        parts = [
            np.array([stop[i] if stop else "" for stop in found.stopped], dtype=object) for i in range(1, 4)
        ]  # verdict, reason, detail
        ledger.decide(stage, *parts, config_hash=config_hash, where=here)
        going &= ~here
    # Thresholds see real clips only: percentiles of leftovers would be percentiles of nothing.
    scores = {name: np.where(going, np.asarray(found.columns[name], np.float64), np.nan) for name in SCORES}
    outcomes = apply(scores, config.filter)
    filter_hash = digest(config.filter)
    for rule in outcomes:
        verdict = np.where(rule.passed, "keep", "drop")
        reason = np.where(rule.passed, "", rule.reason)
        ledger.decide(rule.rule, verdict, reason, "", rule.score, rule.threshold, filter_hash, where=going)
    captioned = found.array("caption") != ""
    if config.caption.missing == "drop":
        verdict = np.where(captioned, "keep", "drop")
        reason = np.where(captioned, "", "caption_missing")
        ledger.decide("caption", verdict, reason, config_hash=digest(config.caption), where=going)
    _leave_out_doubles(found, ledger, config.duplicates)
    judgement = Judgement(ledger, outcomes)
    if config.balance.keep is not None:
        _balance(found, judgement, config.balance)
    if config.quality.count:
        _select_quality(found, judgement, config.quality)
    return judgement


def _leave_out_doubles(found: Candidates, ledger: Ledger, config: DuplicateConfig) -> None:
    """Of clips that show the same footage the one with the most pixels stays, then the technically best."""
    alive = np.flatnonzero(ledger.kept)
    rank = found.array("short_side") * 100 + found.array("technical")
    pairs = []
    for media in ("image", "video"):
        here = alive[found.array("media_type")[alive] == media]
        files = [found.columns["content_hash"][i] for i in here]
        if len(here) and all(found.embeddings[i] is not None for i in here):
            if config.min_cosine is None:
                continue
            vectors = np.stack([found.embeddings[i] for i in here])
            pairs += [(here[a], here[b]) for a, b in pairs_by_embedding(vectors, files, config.min_cosine)]
        elif config.max_bits is not None:
            stills = [found.hashes[i] for i in here], [found.contrasts[i] for i in here]
            pairs += [(here[a], here[b]) for a, b in pairs_by_hash(*stills, files, config.max_bits)]
    out = doubles(pairs, rank)
    verdict, reason, detail = (np.full(ledger.count, text, dtype=object) for text in ("keep", "", ""))
    for i, stays in out.items():
        verdict[i], reason[i] = "drop", "near_duplicate"
        detail[i] = f"the same footage as {found.columns['clip_id'][stays]}"
    where = np.zeros(ledger.count, bool)
    where[alive] = True
    ledger.decide("near_duplicate", verdict, reason, detail, config_hash=digest(config), where=where)


def _balance(found: Candidates, judgement: Judgement, config: BalanceConfig) -> None:
    ledger = judgement.ledger
    alive = np.flatnonzero(ledger.kept)
    judgement.balanced = ledger.kept
    judgement.clusters = np.full(ledger.count, -1)
    if not len(alive):
        return
    which = cluster(np.stack([found.embeddings[i] for i in alive]), config.clusters, config.seed)
    judgement.clusters[alive] = which
    stays = np.ones(ledger.count, bool)
    stays[alive] = thin([found.columns["clip_id"][i] for i in alive], which, config.keep, config.seed)
    verdict, reason = np.where(stays, "keep", "drop"), np.where(stays, "", "balanced_out")
    detail = np.array([f"concept {k}" for k in judgement.clusters], dtype=object)
    ledger.decide("balance", verdict, reason, detail, config_hash=digest(config), where=judgement.balanced)


def _select_quality(found: Candidates, judgement: Judgement, config: QualityConfig) -> None:
    """Told in the ledger as kept clips with the reason quality_selected or quality_rejected: the set loses nothing."""
    ledger = judgement.ledger
    beauty = found.array("aesthetic")
    names = ("aesthetic" if np.isfinite(beauty[ledger.kept]).any() else "technical", "scene_motion")
    videos = ledger.kept & (found.array("media_type") == "video")
    scores = {name: np.where(videos, np.asarray(found.columns[name], np.float64), np.nan) for name in names}
    concept = judgement.clusters
    groups = found.columns["content_hash"] if concept is None else concept.tolist()
    kept = decisions(config.decisions) if config.decisions else {}
    proposed = propose(scores, groups, config.count, config.min_percentile)
    judgement.quality = [(i, rank, kept.get(found.columns["clip_id"][i], True)) for i, rank in proposed]
    reason, rank, where = np.full(ledger.count, "", dtype=object), np.full(ledger.count, np.nan), videos & False
    for i, value, taken in judgement.quality:
        reason[i] = "quality_selected" if taken else "quality_rejected"
        rank[i], where[i] = value, True
    ledger.decide("quality", "keep", reason, score=rank, config_hash=digest(config), where=where)
