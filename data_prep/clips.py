"""Candidate clips: what the source's rows become once licences are decided and files are measured.

One entry per span of a usable file, and one per row that never became a span, with what stopped it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from data_prep.license import Decision
from data_prep.measure import Measured
from data_prep.scores import SCORES, span_scores, stills_inside
from data_prep.shots import Candidate, ShotConfig, cuts
from data_prep.spans import Span, SpanConfig, spans

FIELDS = (
    *("clip_id", "uri", "content_hash", "media_type", "start_s", "end_s", "width", "height", "fps"),
    *("caption", "license", "source", "attribution"),
)


@dataclasses.dataclass
class Candidates:
    """Columns over N entries. stopped: (stage, verdict, reason, detail), or None for a clip that goes on to the filter;
    row: position in the source; hashes, contrasts: of the stills of each clip; embeddings: each clip's mean, of length
    1, or None."""

    columns: dict[str, list]
    stopped: list[tuple[str, str, str, str] | None]
    row: list[int]
    hashes: list[list[int]]
    contrasts: list[list[float]]
    embeddings: list[np.ndarray | None]

    def array(self, name: str) -> np.ndarray:
        return np.asarray(self.columns[name])


def candidates(
    table: pa.Table,
    decisions: list[Decision],
    measured: Measured,
    shots: ShotConfig,
    span: SpanConfig,
    looks: Mapping[str, tuple[list[float], np.ndarray]],
) -> Candidates:
    """Entries in the order of the source's rows. looks: aesthetic scores and embeddings of a file's stills (of
    aesthetic.by_key)."""
    columns: dict[str, list] = {name: [] for name in (*FIELDS, *SCORES)}
    found = Candidates(columns, [], [], [], [], [])
    rows = table.to_pylist()
    first_row: dict[str, int] = {}  # of each content
    for row, decision in zip(rows, decisions):
        key = measured.hashes.get(row["uri"])
        if decision.verdict == "keep" and not row["bad"] and key is not None:
            first_row.setdefault(key, row["row"])
    cut = {
        signals["key"]: _spans_of(signals, shots, span, looks.get(signals["key"], ((), None)))
        for signals in measured.signals.rows(keys=set(first_row.keys()))
    }
    for row, decision in zip(rows, decisions):
        key = measured.hashes.get(row["uri"], "")
        stopped = _stopped(row, decision, key, measured, first_row)
        pieces = [] if stopped else cut.get(key, [])
        if not stopped and isinstance(pieces, tuple):
            stopped = ("read", "error", *pieces)
        if stopped or not pieces:
            stopped = stopped or ("read", "error", "not_measured", "no measurement was stored")
            _add(found, row, decision, key, None, {}, stopped)
            continue
        for piece, facts in pieces:
            why = ("spans", "drop", piece.reason, f"{piece.seconds:.2f} s") if piece.reason else None
            _add(found, row, decision, key, piece, facts, why)
    return found


def clip_id(content: str, start_s: float, end_s: float) -> str:
    """The name of a clip: its content and its span in milliseconds, never its path."""
    return f"{content}-{round(start_s * 1000)}-{round(end_s * 1000)}"


def _spans_of(
    signals: dict, shots: ShotConfig, config: SpanConfig, look: tuple[Sequence[float], np.ndarray | None]
) -> list[tuple[Span, dict]] | tuple[str, str]:
    """Spans with facts and scores, or (reason, detail) of a file that could not be read."""
    if signals["reason"]:
        return signals["reason"], signals["detail"]
    facts = {name: signals[name] for name in ("media_type", "width", "height", "fps")}
    if signals["media_type"] == "image":
        pieces = [Span(0.0, 0.0)]
    else:
        names = ("cut_s", "cut_change", "cut_histogram", "cut_ratio")
        edges = cuts((Candidate(*c) for c in zip(*(signals[name] for name in names))), shots)
        pieces = spans(signals["duration_s"], edges, config)
    return [(piece, facts | _of_span(signals, piece, *look)) for piece in pieces]


def _of_span(signals: dict, piece: Span, aesthetic: Sequence[float], embeddings: np.ndarray | None) -> dict:
    at = stills_inside(signals["still_s"], piece.start_s, piece.end_s)
    found = span_scores(signals, piece.start_s, piece.end_s, aesthetic)
    found["hashes"] = [signals["phash"][i] for i in at]
    found["contrasts"] = [signals["contrast"][i] for i in at]
    if embeddings is not None:
        mean = embeddings[at].mean(0)
        found["embedding"] = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return found


def _stopped(row, decision, key, measured, first_row) -> tuple[str, str, str, str] | None:
    if row["bad"]:
        reason, _, detail = row["bad"].partition(": ")
        return "source", "error", reason, detail
    if decision.verdict != "keep":
        return "license", decision.verdict, decision.reason, decision.detail
    if row["uri"] in measured.failed:
        return "read", "error", *measured.failed[row["uri"]]
    if key and first_row[key] != row["row"]:
        return "duplicate", "drop", "duplicate_content", f"the same bytes as row {first_row[key]}"
    return None


def _add(found: Candidates, row: dict, decision: Decision, key: str, piece: Span | None, facts: dict, stopped) -> None:
    start, end = (piece.start_s, piece.end_s) if piece else (0.0, 0.0)
    values = {
        "clip_id": clip_id(key, start, end) if piece else f"row-{row['row']:08d}",
        "uri": row["uri"],
        "content_hash": key,
        "media_type": facts.get("media_type") or row["media_type"],
        "start_s": start,
        "end_s": end,
        "width": facts.get("width", 0),
        "height": facts.get("height", 0),
        "fps": facts.get("fps", 0.0),
        "caption": row["caption"],
        "license": decision.license,
        "source": row["source"],
        "attribution": row["attribution"],
    }
    for name, column in found.columns.items():
        column.append(values[name] if name in values else facts.get(name, math.nan))
    found.stopped.append(stopped)
    found.row.append(row["row"])
    found.hashes.append(facts.get("hashes", []))
    found.contrasts.append(facts.get("contrasts", []))
    found.embeddings.append(facts.get("embedding"))
