"""What a curation came to: every decision, for the tables and the report, and a summary in flat numbers.

N: clips.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.curate.candidates import Candidates
from data_prep.curate.ledger import Ledger
from data_prep.curate.quality import Proposal
from data_prep.curate.thresholds import ThresholdOutcome
from data_prep.measure.run import Measured
from data_prep.media.errors import INTERNAL
from lingen.io.progress import length


@dataclasses.dataclass(frozen=True)
class CurationResult:
    """N candidates and what was decided about them."""

    found: Candidates
    ledger: Ledger
    outcomes: list[ThresholdOutcome]
    """Of every threshold, in order."""
    concepts: np.ndarray | None
    """Concept of each clip before balancing, int (N,), -1 without one; None without balancing."""
    proposals: list[Proposal]
    """The proposed quality set, best first."""

    def write(self, folder: Path, config_hash: str) -> tuple[str, ...]:
        """Write clips.parquet, scores.parquet and ledger.parquet; returns their names."""
        scores = self.found.columns()
        pq.write_table(scores.filter(pa.array(self.ledger.kept)), folder / "clips.parquet", compression="zstd")
        scores = scores.append_column("verdict", pa.array(self.ledger.verdict, pa.string()))
        scores = scores.append_column("reason", pa.array(self.ledger.reason, pa.string()))
        pq.write_table(scores, folder / "scores.parquet", compression="zstd")
        self.ledger.write(folder / "ledger.parquet", config_hash)
        return "clips.parquet", "scores.parquet", "ledger.parquet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did, in flat numbers: summary.json."""

    inputs: int
    """Rows of the source."""
    clips: int
    """Spans, and inputs that never became one."""
    kept: int
    dropped: int
    errors: int
    internal_errors: int = 0
    """Those of the errors that are bugs of ours."""
    videos_kept: int
    images_kept: int
    hours_measured: float
    hours_kept: float
    hours_left_over: float
    """Shots, or the rest of them, that are too short for a clip."""
    files_read: int
    seconds: float
    start_s: float
    """Seconds until Ray's workers had started, part of `seconds`."""
    reasons: dict[str, int]
    licenses: dict[str, int]

    def rows(self) -> list[tuple[str, object]]:
        """Rows of the closing table; times in units that fit."""
        flat: list[tuple[str, object]] = []
        for name, value in dataclasses.asdict(self).items():
            if name.startswith("hours_"):
                flat.append((name.replace("hours", "video").replace("_", " "), length(value)))
            elif name in ("seconds", "start_s"):
                flat.append(({"seconds": "took", "start_s": "  of it, Ray's start"}[name], length(value / 3600)))
            elif not isinstance(value, dict):
                flat.append((name.replace("_", " "), value))
        return flat + [(f"  {reason}", count) for reason, count in self.reasons.items()]


def summarise(result: CurationResult, inputs: int, measured: Measured, seconds: float) -> Summary:
    """Count what became of `inputs` rows in `seconds`."""
    found, ledger, kept = result.found, result.ledger, result.ledger.kept
    counts = Counter(ledger.verdict.tolist())
    length = np.nan_to_num(found.array("seconds"))
    return Summary(
        inputs=inputs,
        clips=ledger.count,
        kept=counts["keep"],
        dropped=counts["drop"],
        errors=counts["error"],
        internal_errors=ledger.reason.tolist().count(INTERNAL),
        videos_kept=int((kept & found.videos).sum()),
        images_kept=int((kept & found.images).sum()),
        hours_measured=float(length.sum() / 3600),
        hours_kept=float(length[kept].sum() / 3600),
        hours_left_over=float(length[found.left_over].sum() / 3600),
        files_read=measured.new,
        seconds=seconds,
        start_s=measured.start_s,
        reasons=dict(Counter(reason for reason in ledger.reason.tolist() if reason).most_common()),
        licenses=dict(Counter(found.array("license")[kept].tolist()).most_common()),
    )
