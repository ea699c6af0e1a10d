"""Curation: from licensed clips of any kind to the spans worth training on, with a reason for everything left out.

The order is the order of cost: licences are decided from the manifest, files are measured once (data_prep.measure),
and shots, spans, thresholds and doubles are then decided from the stored numbers, again and again if one likes.

Output folder: clips.parquet (kept spans), scores.parquet (all spans), ledger.parquet (every decision), report.html,
summary.json, config.json, and manifest.json last.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import report
from data_prep.aesthetic import AestheticConfig, by_key, score
from data_prep.clips import FIELDS, Candidates, candidates
from data_prep.duplicates import DuplicateConfig, doubles, pairs_by_embedding, pairs_by_hash
from data_prep.estimate import Estimate, estimate
from data_prep.examine import ExamineConfig
from data_prep.filter import FilterConfig, Outcome, apply
from data_prep.ledger import Ledger
from data_prep.license import Decision, LicenseConfig, decide
from data_prep.measure import DecodeConfig, Measured, measure
from data_prep.scores import SCORES
from data_prep.shots import ShotConfig
from data_prep.sources import SourceConfig, digest_source, read_source
from data_prep.spans import SpanConfig
from data_prep.what_if import Choice, grid
from lingen.manifest import OutputFolder, digest, file_digest, read_json, write_json

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    missing: str = "drop"
    """What happens to clips without a caption: drop or keep."""

    def __post_init__(self):
        if self.missing not in ("drop", "keep"):
            raise ValueError(f"--caption.missing: {self.missing!r} is neither drop nor keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """Curate clips: licence gate, probe, shots, scores, filter, ledger and report."""

    input: str
    """A folder of clips, a glob, or a manifest (CSV, Parquet or JSONL) with the columns uri, caption, license, source,
    attribution."""
    output: Path
    """Folder for the result."""
    source: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    license: LicenseConfig = dataclasses.field(default_factory=LicenseConfig)
    examine: ExamineConfig = dataclasses.field(default_factory=ExamineConfig)
    decode: DecodeConfig = dataclasses.field(default_factory=DecodeConfig)
    shots: ShotConfig = dataclasses.field(default_factory=ShotConfig)
    spans: SpanConfig = dataclasses.field(default_factory=SpanConfig)
    aesthetic: AestheticConfig = dataclasses.field(default_factory=AestheticConfig)
    filter: FilterConfig = dataclasses.field(default_factory=FilterConfig)
    caption: CaptionConfig = dataclasses.field(default_factory=CaptionConfig)
    duplicates: DuplicateConfig = dataclasses.field(default_factory=DuplicateConfig)
    store: Path | None = None
    """Where measurements are kept between runs, apart from the output so that they outlive it. Default: the output
    folder's name with .store added."""
    overwrite: bool = False
    """Replace an output folder made with other settings. Stored measurements are used again where they still hold."""
    refilter: bool = False
    """Like --overwrite, and refuse to read media: decide everything again from stored measurements."""
    what_if: bool = False
    """Write nothing: print what other thresholds would keep, from stored measurements."""
    plan: int = 0
    """Write nothing: measure this many clips and predict how long all of them will take."""

    def __post_init__(self):
        if self.filter.min_aesthetic is not None and self.aesthetic.head is None:
            raise ValueError(
                "--filter.min-aesthetic: there is no aesthetic score without --aesthetic.weights and --aesthetic.head; "
                "--filter.min-technical needs no weights"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did, in flat numbers. inputs = rows of the source; clips = spans, and inputs that never became one."""

    inputs: int
    clips: int
    kept: int
    dropped: int
    errors: int
    videos_kept: int
    images_kept: int
    hours_measured: float
    hours_kept: float
    files_read: int
    seconds: float
    reasons: dict[str, int]
    licenses: dict[str, int]

    def rows(self) -> list[tuple[str, object]]:
        """For the closing table."""
        counts = [(name.replace("_", " "), value) for name, value in dataclasses.asdict(self).items()]
        flat = [(name, round(v, 3) if isinstance(v, float) else v) for name, v in counts if not isinstance(v, dict)]
        return flat + [(f"  {reason}", count) for reason, count in self.reasons.items()]


def curate(config: CurateConfig) -> Summary:
    """Run the whole curation into config.output; a finished folder with the same settings is returned as it is.

    Raises:
        ValueError: bad configuration or input, before any work.
    """
    started = time.time()
    table = _read(config)
    folder = OutputFolder.open(
        config.output,
        "curate",
        _content_config(config),
        {"source": digest_source(config.input)},
        overwrite=config.overwrite or config.refilter,
    )
    if folder.finished:
        log.info("%s is finished; nothing to do", config.output)
        return Summary(**read_json(folder.path / "summary.json"))
    found, measured = find(table, config, allow_new=not config.refilter)
    ledger, outcomes = judge(found, config)
    summary = _summarise(table, found, ledger, measured.new, time.time() - started)
    _write(folder, config, found, ledger, outcomes, summary, measured, started)
    return summary


def find(table: pa.Table, config: CurateConfig, allow_new: bool) -> tuple[Candidates, Measured]:
    """Licence gate, measurements and spans of the source's rows; everything but the thresholds."""
    decisions, uris = gate(table, config.license)
    log.info("%d inputs, %d may be read (licence gate)", table.num_rows, len(uris))
    measured = measure(uris, store_folder(config), config.examine, config.decode, allow_new)
    looks = {}
    if config.aesthetic.enabled:
        hashes = set(measured.hashes.values())
        usable = {row["key"] for row in measured.signals.rows(["key", "reason"], hashes) if not row["reason"]}
        scored = score(usable, measured.stills, store_folder(config), config.aesthetic, allow_new)
        looks = by_key(scored.rows(keys=usable))
    return candidates(table, decisions, measured, config.shots, config.spans, looks), measured


def gate(table: pa.Table, config: LicenseConfig) -> tuple[list[Decision], list[str]]:
    """The licence decision of every row, and the URIs that may be read."""
    decisions = [decide(text, config) for text in table.column("license").to_pylist()]
    rows = zip(table["uri"].to_pylist(), table["bad"].to_pylist(), decisions)
    return decisions, [uri for uri, bad, decision in rows if not bad and decision.verdict == "keep"]


def what_if(config: CurateConfig) -> list[Choice]:
    """What other thresholds would keep; nothing is read but stored measurements, nothing is written."""
    found, _ = find(_read(config), config, allow_new=False)
    return grid(found, config.filter)


def plan(config: CurateConfig) -> Estimate:
    """Measure config.plan clips here and predict the whole."""
    _, uris = gate(_read(config), config.license)
    if not uris:
        raise ValueError(f"--plan: no clip of {config.input} passes the licence gate")
    return estimate(uris, config.plan, config.examine, config.decode.workers or os.cpu_count() or 1)


def _read(config: CurateConfig) -> pa.Table:
    return read_source(config.input, config.source, need_license=config.license.assume is None)


def store_folder(config: CurateConfig) -> Path:
    return config.store or config.output.with_name(config.output.name + ".store")


def judge(found: Candidates, config: CurateConfig) -> tuple[Ledger, list[Outcome]]:
    """Every decision over the candidates, in order; the ledger and what each threshold said."""
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
    return ledger, outcomes


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


def _content_config(config: CurateConfig) -> dict:
    """What decides the content of the output: not where it goes, nor how many workers made it."""
    whole = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name in ("output", "store", "overwrite", "refilter", "decode", "what_if", "plan"):
        whole.pop(name)
    whole["aesthetic"] = config.aesthetic.revision if config.aesthetic.enabled else None
    return whole


def _summarise(table: pa.Table, found: Candidates, ledger: Ledger, new: int, seconds: float) -> Summary:
    kept, media = ledger.kept, found.array("media_type")
    counts = Counter(ledger.verdict.tolist())
    length = np.nan_to_num(found.array("seconds").astype(float))
    return Summary(
        inputs=table.num_rows,
        clips=ledger.count,
        kept=counts["keep"],
        dropped=counts["drop"],
        errors=counts["error"],
        videos_kept=int((kept & (media == "video")).sum()),
        images_kept=int((kept & (media == "image")).sum()),
        hours_measured=float(length.sum() / 3600),
        hours_kept=float(length[kept].sum() / 3600),
        files_read=new,
        seconds=seconds,
        reasons=dict(Counter(reason for reason in ledger.reason.tolist() if reason).most_common()),
        licenses=dict(Counter(found.array("license")[kept].tolist()).most_common()),
    )


def _write(folder, config, found, ledger, outcomes, summary, measured, started) -> None:
    path = folder.path
    columns = {name: found.columns[name] for name in (*FIELDS, *SCORES)}
    everything = pa.table(columns)
    pq.write_table(everything.filter(pa.array(ledger.kept)), path / "clips.parquet", compression="zstd")
    scored = everything.append_column("verdict", pa.array(ledger.verdict, pa.string()))
    scored = scored.append_column("reason", pa.array(ledger.reason, pa.string()))
    pq.write_table(scored, path / "scores.parquet", compression="zstd")
    ledger.write(path / "ledger.parquet", digest(_content_config(config)))
    write_json(path / "summary.json", summary)
    report.write(path / "report.html", config, found, ledger, outcomes, summary, measured.stills)
    names = ("clips.parquet", "scores.parquet", "ledger.parquet", "summary.json", "report.html")
    outputs = {name: file_digest(path / name) for name in names}
    folder.publish(outputs | {"clips": summary.kept, "hours": round(summary.hours_kept, 4)}, started)
