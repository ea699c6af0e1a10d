"""The quality set: the best clips, spread over concepts, as a list that a person edits and passes back.

The paper's last stages train on a few thousand (3,000, then 300) hand-picked clips. Here the scores propose and a
person decides: writing "no" in the column `keep` of quality.csv and passing the file back takes a clip out.

N: clips.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lingen.io.manifest import digest, write_atomic

if TYPE_CHECKING:  # training reads decisions from here, and needs no decoders
    from data_prep.curate.candidates import Candidates
    from data_prep.curate.ledger import Ledger

NO = frozenset(["no", "n", "0", "false", "drop"])
"""What a person writes in `keep` to take a clip out."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula."""
SHOWN = ("clip_id", "caption", "uri", "start_s", "end_s", "license", "technical", "aesthetic", "scene_motion")
"""Columns of quality.csv after keep and rank."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityConfig:
    count: int = 0
    """Clips to propose for the quality set, such as 3000 or 300; 0 for none."""
    min_percentile: float = 50.0
    """Every score used (aesthetic or technical, and the motion of the scene) must reach this percentile."""
    decisions: Path | None = None
    """A quality.csv with "no" in the column keep for every clip to leave out."""

    def __post_init__(self):
        if self.decisions is not None and not Path(self.decisions).is_file():
            raise ValueError(f"--quality.decisions: {self.decisions} is not a file")
        if not 0 <= self.min_percentile < 100:
            raise ValueError(f"--quality.min-percentile: {self.min_percentile} is not between 0 and 100")


class Proposal(NamedTuple):
    """A clip proposed for the quality set."""

    clip: int
    """Its index."""
    rank: float
    """Mean percentile of its scores, 0 to 100."""
    taken: bool
    """Whether it stays in the set, as nobody has taken it out."""


def propose_quality_set(
    found: Candidates, ledger: Ledger, concepts: np.ndarray | None, config: QualityConfig
) -> list[Proposal]:
    """Propose the best of the kept videos, and record them in the ledger as kept: the data set loses nothing.

    Args:
        concepts: int (N,), the groups to spread over; None: files.

    Returns:
        The proposed clips, best first; none if config.count is 0.
    """
    if not config.count:
        return []
    aesthetic = found.array("aesthetic")
    names = ("aesthetic" if np.isfinite(aesthetic[ledger.kept]).any() else "technical", "scene_motion")
    videos = ledger.kept & found.videos
    scores = {name: np.where(videos, found.array(name), np.nan) for name in names}
    groups = (found.array("content_hash") if concepts is None else concepts).tolist()
    stays = decisions(config.decisions) if config.decisions else {}
    best = select_best(scores, groups, config.count, config.min_percentile)
    proposals = [Proposal(i, rank, stays.get(str(found.value("clip_id", i)), True)) for i, rank in best]
    reason, ranks = np.full(ledger.count, "", dtype=object), np.full(ledger.count, np.nan)
    proposed = np.zeros(ledger.count, bool)
    for clip, rank, taken in proposals:
        reason[clip] = "quality_selected" if taken else "quality_rejected"
        ranks[clip], proposed[clip] = rank, True
    ledger.decide("quality", "keep", reason, score=ranks, config_hash=digest(config), where=proposed)
    return proposals


def select_best(
    scores: Mapping[str, np.ndarray], groups: Sequence[object], count: int, min_percentile: float
) -> list[tuple[int, float]]:
    """Select the best of N clips; groups take turns, each with its best, so that no concept fills the set.

    Args:
        scores: (N,) each, higher is better, NaN where a score does not apply.
        groups: concept (or file) of each clip.
        count: most clips to select.
        min_percentile: every score of a selected clip reaches this percentile, 0 to 100.

    Returns:
        (index, rank) of the selected clips, best first; rank: mean percentile, 0 to 100.
    """
    ranks = {name: _percentiles(values) for name, values in scores.items() if np.isfinite(values).any()}
    if not ranks:
        return []
    stacked = np.stack(list(ranks.values()))
    known = np.isfinite(stacked)
    rank = np.where(known, stacked, 0).sum(0) / np.maximum(known.sum(0), 1)
    good = (known & (stacked >= min_percentile) | ~known).all(0) & known.any(0)
    queues: dict[object, list[int]] = defaultdict(list)
    for i in sorted(np.flatnonzero(good).tolist(), key=lambda i: -rank[i]):
        queues[groups[i]].append(i)
    turns = sorted((turn, -rank[i], i) for queue in queues.values() for turn, i in enumerate(queue))
    return [(i, float(-minus)) for _, minus, i in turns[:count]]


def _percentiles(values: np.ndarray) -> np.ndarray:
    """Percentile rank, 0 to 100, of each value among those that are numbers."""
    known = np.isfinite(values)
    out = np.full(len(values), np.nan)
    if known.any():
        order = np.sort(values[known])
        out[known] = 100 * np.searchsorted(order, values[known], side="left") / max(1, known.sum() - 1)
    return out


def write_quality_set(folder: Path, found: Candidates, proposals: Sequence[Proposal]) -> tuple[str, ...]:
    """Write quality.csv, for a person to edit, and quality.parquet, the clips taken, as in clips.parquet.

    Returns:
        The names of the files.
    """
    rows = [
        {"keep": "yes" if taken else "no", "rank": round(rank, 2)} | {name: found.value(name, i) for name in SHOWN}
        for i, rank, taken in proposals
    ]
    write_atomic(folder / "quality.csv", spreadsheet_csv(rows, ("keep", "rank", *SHOWN)))
    taken = pa.array([proposal.clip for proposal in proposals if proposal.taken], pa.int64())
    pq.write_table(found.columns().take(taken), folder / "quality.parquet", compression="zstd")
    return "quality.csv", "quality.parquet"


def spreadsheet_csv(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> str:
    """CSV text that is safe to open in a spreadsheet: text that looks like a formula is prefixed with an apostrophe."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v for k, v in row.items()})
    return text.getvalue()


def decisions(path: Path, field: str = "--quality.decisions") -> dict[str, bool]:
    """Read an edited quality.csv: clip_id -> whether it stays.

    Args:
        path: the file.
        field: the flag that an error names.

    Raises:
        ValueError: the file lacks the columns clip_id and keep.
    """
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as f:
        reader = csv.DictReader(line.replace("\0", "") for line in f)
        if not {"clip_id", "keep"} <= set(reader.fieldnames or []):
            raise ValueError(f"{field}: {path} needs the columns clip_id and keep")
        stays: dict[str, bool] = {}
        for row in reader:
            stays[row["clip_id"]] = stays.get(row["clip_id"], True) and (row["keep"] or "").strip().lower() not in NO
        return stays
