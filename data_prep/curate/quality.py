"""The quality set: the best clips, spread over concepts, as a list that a person edits and feeds back.

The paper's last stages train on a few thousand (3,000, then 300) hand-picked clips. Here the scores propose, a person
disposes: quality.csv has a column `keep`; whoever writes "no" there and passes the file back takes the clip out.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NO = frozenset(["no", "n", "0", "false", "drop"])
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityConfig:
    count: int = 0
    """Clips to propose for the quality set, such as 3000 or 300; 0 for none."""
    min_percentile: float = 50.0
    """Every score that counts (aesthetic or technical, and the motion of the scene) must be above this percentile."""
    decisions: Path | None = None
    """A quality.csv with "no" in the column keep where a clip is to be left out."""

    def __post_init__(self):
        if self.decisions is not None and not Path(self.decisions).is_file():
            raise ValueError(f"--quality.decisions: {self.decisions} is no file")
        if not 0 <= self.min_percentile < 100:
            raise ValueError(f"--quality.min-percentile: {self.min_percentile} is not between 0 and 100")


def propose(
    scores: dict[str, np.ndarray], groups: Sequence[object], count: int, min_percentile: float
) -> list[tuple[int, float]]:
    """(index, rank) of up to `count` of N clips, best first.

    scores: (N,) each, higher is better, NaN where it does not apply; groups: concept (or file) of each clip. rank: mean
    percentile 0..100. Groups take turns, each with its best, so that no concept fills the set.
    """
    ranks = {name: _percentiles(values) for name, values in scores.items() if np.isfinite(values).any()}
    if not ranks:
        return []
    stacked = np.stack(list(ranks.values()))
    known = np.isfinite(stacked)
    rank = np.where(known, stacked, 0).sum(0) / np.maximum(known.sum(0), 1)
    good = (known & (stacked >= min_percentile) | ~known).all(0) & known.any(0)
    queues: dict[object, list[int]] = defaultdict(list)
    for i in sorted(np.flatnonzero(good), key=lambda i: -rank[i]):
        queues[groups[i]].append(int(i))
    turns = sorted(
        ((turn, -rank[i], i) for queue in queues.values() for turn, i in enumerate(queue)),
    )
    return [(i, float(-minus)) for _, minus, i in turns[:count]]


def _percentiles(values: np.ndarray) -> np.ndarray:
    """Percentile rank 0..100 of each value among those that are numbers."""
    known = np.isfinite(values)
    out = np.full(len(values), np.nan)
    if known.any():
        order = np.sort(values[known])
        out[known] = 100 * np.searchsorted(order, values[known], side="left") / max(1, known.sum() - 1)
    return out


def write_csv(rows: Sequence[dict], columns: Sequence[str]) -> str:
    """CSV text that is safe to open in a spreadsheet: text that looks like a formula gets an apostrophe in front."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"'{v}" if isinstance(v, str) and v.startswith(FORMULA) else v for k, v in row.items()})
    return text.getvalue()


def decisions(path: Path, field: str = "--quality.decisions") -> dict[str, bool]:
    """clip_id -> whether a person lets it stay, of an edited quality.csv.

    Raises:
        ValueError: the file lacks the columns clip_id and keep; names `field`.
    """
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as f:
        reader = csv.DictReader(line.replace("\0", "") for line in f)
        if not {"clip_id", "keep"} <= set(reader.fieldnames or []):
            raise ValueError(f"{field}: {path} needs the columns clip_id and keep")
        stays: dict[str, bool] = {}
        for row in reader:
            stays[row["clip_id"]] = stays.get(row["clip_id"], True) and (row["keep"] or "").strip().lower() not in NO
        return stays
