"""Curation: from licensed clips of any kind to the spans worth training on, with a reason for everything left out.

The order is the order of cost: licences are decided from the manifest, files are measured once (data_prep.measure.run),
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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.curate import report
from data_prep.curate.balance import BalanceConfig
from data_prep.curate.candidates import FIELDS, Candidates, candidates
from data_prep.curate.decide import Judgement, judge
from data_prep.curate.estimate import Estimate, estimate
from data_prep.curate.ledger import Ledger
from data_prep.curate.license import Decision, LicenseConfig, decide
from data_prep.curate.near_duplicates import DuplicateConfig
from data_prep.curate.quality import QualityConfig, write_csv
from data_prep.curate.scores import SCORES
from data_prep.curate.spans import SpanConfig
from data_prep.curate.takedown import Takedown
from data_prep.curate.thresholds import FilterConfig
from data_prep.curate.what_if import Choice, grid
from data_prep.measure.aesthetic import AestheticConfig, AestheticLookup, score
from data_prep.measure.cuts import ShotConfig
from data_prep.measure.examine import ExamineConfig
from data_prep.measure.run import DecodeConfig, Measured, measure
from data_prep.measure.store import Snapshot
from data_prep.sources.manifest import SourceConfig, digest_source, read_source, rows_of
from lingen.io.manifest import OutputFolder, digest, file_digest, read_json, write_atomic, write_json

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
    """A folder of clips, a glob, WebDataset tars, or a manifest (CSV, Parquet or JSONL) with the columns uri, caption,
    license, source, attribution; a path or a URI such as s3://bucket/prefix."""
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
    takedown: Path | None = None
    """CSV of what must go: columns content (hash or clip_id), uri, source, license, attribution, detail. It is not read
    any more, and its pictures are removed from the store."""
    caption: CaptionConfig = dataclasses.field(default_factory=CaptionConfig)
    duplicates: DuplicateConfig = dataclasses.field(default_factory=DuplicateConfig)
    balance: BalanceConfig = dataclasses.field(default_factory=BalanceConfig)
    quality: QualityConfig = dataclasses.field(default_factory=QualityConfig)
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
        if self.takedown is not None:
            Takedown.read(self.takedown)
        if self.filter.min_aesthetic is not None and self.aesthetic.head is None:
            raise ValueError(
                "--filter.min-aesthetic: there is no aesthetic score without --aesthetic.weights and --aesthetic.head; "
                "--filter.min-technical needs no weights"
            )
        if self.balance.keep is not None and not self.aesthetic.enabled:
            raise ValueError("--balance.keep: concepts need embeddings; add --aesthetic.weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did, in flat numbers. inputs = rows of the source; clips = spans, and inputs that never became one;
    hours_left_over: of shots, or rests of them, too short for a clip; start_s: seconds until Ray's workers had started,
    of `seconds`."""

    inputs: int
    clips: int
    kept: int
    dropped: int
    errors: int
    videos_kept: int
    images_kept: int
    hours_measured: float
    hours_kept: float
    hours_left_over: float
    files_read: int
    seconds: float
    start_s: float
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
    if config.takedown:
        gone = found.table.filter(pc.equal(found.table["reason"], "taken_down"))["content_hash"]
        measured.stills.remove(pc.unique(gone))
    judgement = judge(found, config)
    summary = _summarise(table, found, judgement.ledger, measured, time.time() - started)
    _write(folder, config, found, judgement, summary, measured, started)
    return summary


def find(table: pa.Table, config: CurateConfig, allow_new: bool) -> tuple[Candidates, Measured]:
    """Licence gate, measurements and spans of the source's rows; everything but the thresholds."""
    decisions, uris = gate(table, config.license)
    log.info("%d inputs, %d may be read (licence gate)", table.num_rows, len(uris))
    takedown = skip_uris = None
    if config.takedown:
        takedown = Takedown.read(config.takedown)
        skip_uris = pa.array({row["uri"] for row in rows_of(table) if takedown.detail(row)}, pa.string())
    measured = measure(uris, store_folder(config), config.examine, config.decode, allow_new, skip_uris)
    looks = None
    if config.aesthetic.enabled:
        numbers = measured.signals.table(["key", "reason"])
        here = pc.is_in(numbers["key"], pc.unique(measured.files["content_hash"]))
        usable = numbers.filter(pc.and_(here, pc.equal(numbers["reason"], "")))
        scored = score(usable["key"], measured.stills, store_folder(config), config.aesthetic, allow_new)
        looks = AestheticLookup(Snapshot(scored))
    return candidates(table, decisions, measured, config.shots, config.spans, looks, takedown), measured


def gate(table: pa.Table, config: LicenseConfig) -> tuple[list[Decision], pa.Array]:
    """The licence decision of every row, and the URIs that may be read."""
    decisions = [decide(text, config) for text in table.column("license").to_pylist()]
    kept = pa.array([d.verdict == "keep" for d in decisions], pa.bool_())
    return decisions, pc.unique(table["uri"].filter(pc.and_(kept, pc.equal(table["bad"], ""))))


def what_if(config: CurateConfig) -> list[Choice]:
    """What other thresholds would keep; nothing is read but stored measurements, nothing is written."""
    found, _ = find(_read(config), config, allow_new=False)
    return grid(found, config.filter)


def plan(config: CurateConfig) -> Estimate:
    """Measure config.plan clips here and predict the whole."""
    _, uris = gate(_read(config), config.license)
    if not uris:
        raise ValueError(f"--plan: no clip of {config.input} passes the licence gate")
    workers = config.decode.workers or os.cpu_count() or 1
    return estimate(uris.to_pylist(), config.plan, config.examine, workers, config.aesthetic)


def _read(config: CurateConfig) -> pa.Table:
    return read_source(config.input, config.source, need_license=config.license.assume is None)


def store_folder(config: CurateConfig) -> Path:
    return config.store or config.output.with_name(config.output.name + ".store")


def _content_config(config: CurateConfig) -> dict:
    """What decides the content of the output: not where it goes, nor how many workers made it."""
    whole = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name in ("output", "store", "overwrite", "refilter", "decode", "what_if", "plan"):
        whole.pop(name)
    if config.quality.decisions:
        whole["quality"] = [config.quality, file_digest(config.quality.decisions)]
    whole["takedown"] = config.takedown and file_digest(config.takedown)
    whole["aesthetic"] = config.aesthetic.revision if config.aesthetic.enabled else None
    return whole


def _summarise(table: pa.Table, found: Candidates, ledger: Ledger, measured: Measured, seconds: float) -> Summary:
    kept, media = ledger.kept, found.table["media_type"]
    counts = Counter(ledger.verdict.tolist())
    length = np.nan_to_num(found.array("seconds"))
    return Summary(
        inputs=table.num_rows,
        clips=ledger.count,
        kept=counts["keep"],
        dropped=counts["drop"],
        errors=counts["error"],
        videos_kept=int((kept & pc.equal(media, "video").to_numpy()).sum()),
        images_kept=int((kept & pc.equal(media, "image").to_numpy()).sum()),
        hours_measured=float(length.sum() / 3600),
        hours_kept=float(length[kept].sum() / 3600),
        hours_left_over=float(length[pc.equal(found.table["stage"], "spans").to_numpy()].sum() / 3600),
        files_read=measured.new,
        seconds=seconds,
        start_s=measured.start_s,
        reasons=dict(Counter(reason for reason in ledger.reason.tolist() if reason).most_common()),
        licenses=dict(Counter(found.array("license")[kept].tolist()).most_common()),
    )


def _write(folder, config, found, judgement: Judgement, summary, measured, started) -> None:
    path, ledger = folder.path, judgement.ledger
    everything = found.table.select([*FIELDS, *SCORES])
    pq.write_table(everything.filter(pa.array(ledger.kept)), path / "clips.parquet", compression="zstd")
    scored = everything.append_column("verdict", pa.array(ledger.verdict, pa.string()))
    scored = scored.append_column("reason", pa.array(ledger.reason, pa.string()))
    pq.write_table(scored, path / "scores.parquet", compression="zstd")
    ledger.write(path / "ledger.parquet", digest(_content_config(config)))
    write_json(path / "summary.json", summary)
    report.write(path / "report.html", config, found, judgement, summary, measured.stills)
    names = ["clips.parquet", "scores.parquet", "ledger.parquet", "summary.json", "report.html"]
    if config.quality.count:
        names += _write_quality(path, found, judgement, everything)
    outputs = {name: file_digest(path / name) for name in names}
    folder.publish(outputs | {"clips": summary.kept, "hours": round(summary.hours_kept, 4)}, started)


def _write_quality(path: Path, found: Candidates, judgement: Judgement, everything: pa.Table) -> list[str]:
    """quality.csv, for a person to edit, and quality.parquet, the clips taken, as in clips.parquet."""
    shown = ("clip_id", "caption", "uri", "start_s", "end_s", "license", "technical", "aesthetic", "scene_motion")
    rows = [
        {"keep": "yes" if taken else "no", "rank": round(rank, 2)} | {n: found.value(n, i) for n in shown}
        for i, rank, taken in judgement.quality
    ]
    write_atomic(path / "quality.csv", write_csv(rows, ("keep", "rank", *shown)))
    taken = pa.array([i for i, _, yes in judgement.quality if yes], pa.int64())
    pq.write_table(everything.take(taken), path / "quality.parquet", compression="zstd")
    return ["quality.csv", "quality.parquet"]
