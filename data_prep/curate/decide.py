"""The decisions over candidate clips, in the order in which the ledger tells them. Nothing is read or decoded here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.curate.balance import BalanceConfig, cluster, thin
from data_prep.curate.candidates import Candidates
from data_prep.curate.ledger import Ledger
from data_prep.curate.near_duplicates import DuplicateConfig, doubles_by_embedding, doubles_by_hash
from data_prep.curate.quality import QualityConfig, decisions, propose
from data_prep.curate.thresholds import ThresholdOutcome, apply
from lingen.io.manifest import digest, file_digest


@dataclasses.dataclass
class Judgement:
    """ledger; outcomes of the thresholds; clusters (concept of each of the N clips, -1 without one, None when there is
    no balancing) and balanced (bool (N,): clips that were there to be balanced); quality: (clip, rank, taken) of the
    proposed quality set, best first."""

    ledger: Ledger
    outcomes: list[ThresholdOutcome]
    clusters: np.ndarray | None = None
    balanced: np.ndarray | None = None
    quality: list[tuple[int, float, bool]] = dataclasses.field(default_factory=list)


def judge(found: Candidates, config) -> Judgement:
    """Every decision over the candidates, in order. config: CurateConfig."""
    ledger = Ledger(*(found.table[name] for name in ("clip_id", "row", "uri")))
    hashes = {
        "source": digest(config.source),
        "license": digest(config.license),
        **({"takedown": file_digest(config.takedown)} if config.takedown else {}),
        "read": digest([config.examine, config.decode]),
        "duplicate": "",
        "spans": digest([config.shots, config.spans]),
    }
    stopped = [found.array(name) for name in ("stage", "verdict", "reason", "detail")]
    going = np.ones(ledger.count, bool)
    for stage, config_hash in hashes.items():
        here = stopped[0] == stage
        ledger.decide(stage, "keep", config_hash=config_hash, where=going & ~here)
        ledger.decide(stage, *stopped[1:], config_hash=config_hash, where=here)
        going &= ~here
    outcomes = apply(found.scores(), config.filter)
    filter_hash = digest(config.filter)
    for rule in outcomes:
        verdict = np.where(rule.passed, "keep", "drop")
        reason = np.where(rule.passed, "", rule.reason)
        ledger.decide(rule.rule, verdict, reason, "", rule.score, rule.threshold, filter_hash, where=going)
    captioned = pc.not_equal(found.table["caption"], "").to_numpy()
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
    files = found.table["content_hash"].combine_chunks().dictionary_encode().indices.to_numpy()
    out = {}
    for media in ("image", "video"):
        here = alive[pc.equal(found.table["media_type"], media).to_numpy()[alive]]
        vectors, double_of = found.embeddings(here), {}
        if vectors is not None and config.min_cosine is not None:
            double_of = doubles_by_embedding(vectors, files[here], rank[here], config.min_cosine)
        elif vectors is None and config.max_bits is not None and len(here):
            looks = (found.table[name].take(pa.array(here)).combine_chunks() for name in ("hashes", "contrasts"))
            double_of = doubles_by_hash(*looks, files[here], rank[here], config.max_bits)
        out |= {int(here[i]): int(here[j]) for i, j in double_of.items()}
    verdict, reason, detail = (np.full(ledger.count, text, dtype=object) for text in ("keep", "", ""))
    for i, stays in out.items():
        verdict[i], reason[i] = "drop", "near_duplicate"
        detail[i] = f"the same footage as {found.value('clip_id', stays)}"
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
    which = cluster(found.embeddings(alive), config.clusters, config.seed)
    judgement.clusters[alive] = which
    stays = np.ones(ledger.count, bool)
    stays[alive] = thin(found.array("clip_id")[alive], which, config.keep, config.seed)
    verdict, reason = np.where(stays, "keep", "drop"), np.where(stays, "", "balanced_out")
    detail = np.array([f"concept {k}" for k in judgement.clusters], dtype=object)
    ledger.decide("balance", verdict, reason, detail, config_hash=digest(config), where=judgement.balanced)


def _select_quality(found: Candidates, judgement: Judgement, config: QualityConfig) -> None:
    """Told in the ledger as kept clips with the reason quality_selected or quality_rejected: the set loses nothing."""
    ledger = judgement.ledger
    beauty = found.array("aesthetic")
    names = ("aesthetic" if np.isfinite(beauty[ledger.kept]).any() else "technical", "scene_motion")
    videos = ledger.kept & pc.equal(found.table["media_type"], "video").to_numpy()
    scores = {name: np.where(videos, found.array(name), np.nan) for name in names}
    concept = judgement.clusters
    groups = found.array("content_hash") if concept is None else concept.tolist()
    kept = decisions(config.decisions) if config.decisions else {}
    proposed = propose(scores, groups, config.count, config.min_percentile)
    judgement.quality = [(i, rank, kept.get(found.value("clip_id", i), True)) for i, rank in proposed]
    reason, rank, where = np.full(ledger.count, "", dtype=object), np.full(ledger.count, np.nan), videos & False
    for i, value, taken in judgement.quality:
        reason[i] = "quality_selected" if taken else "quality_rejected"
        rank[i], where[i] = value, True
    ledger.decide("quality", "keep", reason, score=rank, config_hash=digest(config), where=where)
