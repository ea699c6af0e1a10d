"""Curation: from licensed clips of any kind to the spans worth training on, with a reason for everything left out.

The steps are ordered by cost: licences and captions are decided from the manifest, files are measured once
(data_prep.measure.run), then spans, thresholds, near-duplicates, balance and quality are decided from the stored
numbers, as often as needed.

Output folder: clips.parquet (kept spans), scores.parquet (all spans), ledger.parquet (every decision), report.html,
summary.json, config.json, and manifest.json last.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.curate import report
from data_prep.curate.balance import balance_concepts
from data_prep.curate.candidates import find_candidates, start_ledger
from data_prep.curate.config import CurateConfig
from data_prep.curate.estimate import Estimate, estimate
from data_prep.curate.license import Decision, gate
from data_prep.curate.near_duplicates import drop_near_duplicates
from data_prep.curate.quality import propose_quality_set, write_quality_set
from data_prep.curate.result import CurationResult, Summary, summarise
from data_prep.curate.thresholds import Choice, drop_by_thresholds, grid, pass_captioned
from data_prep.measure.aesthetic import AestheticConfig, AestheticLookup, score
from data_prep.measure.run import Measured, measure
from data_prep.measure.store import Snapshot, Store
from data_prep.sources.columns import parse_columns
from data_prep.sources.manifest import digest_source, read_source
from lingen.io.manifest import OutputFolder, digest, file_digest, read_json, write_json

log = logging.getLogger(__name__)


def curate(config: CurateConfig) -> Summary:
    """Run the whole curation into config.output; a finished folder with the same settings is returned as it is.

    Raises:
        ValueError: bad configuration or input, before any work.
    """
    started = time.time()
    source = _read(config)
    inputs = {"source": digest_source(config.input, config.source, parse_columns(config.columns))}
    replace = config.overwrite or config.refilter
    folder = OutputFolder.open(config.output, "curate", config.content(), inputs, overwrite=replace)
    if folder.finished:
        log.info("%s is finished; nothing to do", config.output)
        return Summary(**read_json(folder.path / "summary.json"))

    allow_new, takedown = not config.refilter, config.takedown_list
    decisions, measured = _measure(source, config, allow_new)
    still_scores = _score_stills(measured, config.store_folder, config.aesthetic, allow_new)
    found = find_candidates(source, decisions, measured, config.shots, config.spans, still_scores, takedown)
    if takedown:
        measured.stills.remove(found.taken_down)

    ledger = start_ledger(found, config.stage_hashes(), digest(config.caption))
    outcomes = drop_by_thresholds(found, ledger, config.filter)
    pass_captioned(found, ledger, config.caption)
    drop_near_duplicates(found, ledger, config.duplicates)
    concepts = balance_concepts(found, ledger, config.balance)
    proposals = propose_quality_set(found, ledger, concepts, config.quality)

    result = CurationResult(found, ledger, outcomes, concepts, proposals)
    summary = summarise(result, source.num_rows, measured, time.time() - started)
    outputs = _write(folder, config, result, summary, measured.stills)
    folder.publish(outputs, started)
    return summary


def what_if(config: CurateConfig) -> list[Choice]:
    """What other thresholds would keep; reads nothing but the source and stored measurements, and writes nothing."""
    source = _read(config)
    decisions, measured = _measure(source, config, allow_new=False)
    still_scores = _score_stills(measured, config.store_folder, config.aesthetic, allow_new=False)
    found = find_candidates(source, decisions, measured, config.shots, config.spans, still_scores, config.takedown_list)
    return grid(found, config.filter)


def estimate_run(config: CurateConfig) -> Estimate:
    """Measure config.estimate clips, one after another, and predict the time for all of them.

    Raises:
        ValueError: no clip passes the licence gate, or none of those has a caption.
    """
    decisions, uris = gate(_read(config), config.license, config.caption.required)
    if not uris:
        why = "has a caption" if any(d.stage == "caption" for d in decisions) else "passes the licence gate"
        raise ValueError(f"--estimate: no clip of {config.input} {why}; run without it to see why")
    workers = config.decode.workers or os.cpu_count() or 1
    return estimate(uris.to_pylist(), config.estimate, config.examine, config.decode, workers, config.aesthetic)


def _read(config: CurateConfig) -> pa.Table:
    """The source, with the columns that these settings need."""
    need_license, columns = config.license.assume is None, parse_columns(config.columns)
    return read_source(config.input, config.source, need_license, config.caption.required, columns)


def _gate(source: pa.Table, config: CurateConfig) -> tuple[list[Decision], pa.Array]:
    decisions, uris = gate(source, config.license, config.caption.required)
    log.info("%d inputs, %d may be read (by licence and caption)", source.num_rows, len(uris))
    return decisions, uris


def _measure(source: pa.Table, config: CurateConfig, allow_new: bool) -> tuple[list[Decision], Measured]:
    """Measure what licence and caption let through; what a takedown may name is only looked up in the store."""
    decisions, uris = _gate(source, config)
    skip_uris, takedown = None, config.takedown_list
    if takedown:
        bare = pa.array([d.stage == "caption" for d in decisions], pa.bool_())
        bare_uris = pc.unique(source["uri"].filter(pc.and_(bare, pc.equal(source["bad"], ""))))
        bare_uris = bare_uris.filter(pc.invert(pc.is_in(bare_uris, uris)))
        skip_uris = pa.concat_arrays([takedown.uris(source), bare_uris])
        uris = pa.concat_arrays([uris, bare_uris])
    return decisions, measure(uris, config.store_folder, config.examine, config.decode, allow_new, skip_uris)


def _write(
    folder: OutputFolder, config: CurateConfig, result: CurationResult, summary: Summary, stills: Store
) -> dict[str, str | float]:
    """Write all but the manifest; returns the manifest's outputs: digests of the files, and two counts."""
    names = result.write(folder.path, digest(folder.config))
    write_json(folder.path / "summary.json", summary)
    report.write(folder.path / "report.html", config.input, config.license.assume, result, summary, stills)
    names += ("summary.json", "report.html")
    if config.quality.count:
        names += write_quality_set(folder.path, result.found, result.proposals)
    digests = {name: file_digest(folder.path / name) for name in names}
    return digests | {"clips": summary.kept, "hours": round(summary.hours_kept, 4)}


def _score_stills(measured: Measured, store: Path, config: AestheticConfig, allow_new: bool) -> AestheticLookup | None:
    """Aesthetic scores and embeddings of every readable file's stills; None without a model."""
    if not config.enabled:
        return None
    signals = measured.signals.table(["key", "reason"])
    ours = pc.is_in(signals["key"], pc.unique(measured.files["content_hash"]))
    usable = signals.filter(pc.and_(ours, pc.equal(signals["reason"], "")))
    return AestheticLookup(Snapshot(score(usable["key"], measured.stills, store, config, allow_new)))
