"""Candidate clips: what the source's rows become once licences are decided and files are measured.

One entry per span of a usable file, and one per row that never became a span, with what stopped it. Entries are one
Arrow table, about a kilobyte each: a million clips fit into a laptop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.curate.license import Decision
from data_prep.curate.scores import SCORES, span_scores, stills_inside
from data_prep.curate.spans import TICK_S, Span, SpanConfig, spans
from data_prep.curate.takedown import Takedown
from data_prep.measure.cuts import Candidate, ShotConfig, cuts
from data_prep.measure.dissolves import Dissolve
from data_prep.measure.run import Measured
from data_prep.measure.store import Snapshot
from data_prep.sources.manifest import rows_of

FIELDS = {
    "clip_id": pa.string(),
    "uri": pa.string(),
    "content_hash": pa.string(),
    "media_type": pa.string(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "fps": pa.float64(),
    "caption": pa.string(),
    "license": pa.string(),
    "source": pa.string(),
    "attribution": pa.string(),
}
_STOPPED = {name: pa.string() for name in ("stage", "verdict", "reason", "detail")}
_LOOKS = {"hashes": pa.list_(pa.uint64()), "contrasts": pa.list_(pa.float32()), "embedding": pa.binary()}
_MEASURED = {name: FIELDS[name] for name in ("media_type", "start_s", "end_s", "width", "height", "fps")}
_PIECE = pa.schema({"key": pa.string()} | _MEASURED | dict.fromkeys(SCORES, pa.float64()) | _STOPPED | _LOOKS)
SCHEMA = pa.schema({"row": pa.int64()} | FIELDS | dict.fromkeys(SCORES, pa.float64()) | _STOPPED | _LOOKS)
"""row: position in the source; stage, verdict, reason, detail: what stopped an entry, "" for a clip that goes on to the
filter; hashes, contrasts: of its stills; embedding: float16, their mean, of length 1, or null. Of what is no
clip all three may be null."""

StillScores = Callable[[set[str]], Mapping[str, tuple[list[float], np.ndarray]]]
"""content hashes -> aesthetic scores and embeddings of each file's stills, of those that have them."""


@dataclasses.dataclass
class Candidates:
    """N entries: a table of SCHEMA."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def array(self, name: str) -> np.ndarray:
        """A column as numbers or Python strings (N,)."""
        return self.table[name].to_numpy()

    def value(self, name: str, i: int):
        return self.table[name][i].as_py()

    @property
    def going(self) -> np.ndarray:
        """bool (N,): clips that nothing has stopped before the filter."""
        return pc.equal(self.table["stage"], "").to_numpy()

    def scores(self) -> dict[str, np.ndarray]:
        """float (N,) each of SCORES; NaN where it has no meaning, and for what is no clip: percentiles of leftovers
        would be percentiles of nothing."""
        return {name: np.where(self.going, self.array(name), np.nan) for name in SCORES}

    def embeddings(self, at: np.ndarray) -> np.ndarray | None:
        """float32 (len(at), D), or None unless all of them have one."""
        column = self.table["embedding"].take(pa.array(at, pa.int64()))
        if not len(at) or column.null_count:
            return None
        return np.stack([np.frombuffer(e.as_buffer(), np.float16) for e in column]).astype(np.float32)


def candidates(
    table: pa.Table,
    decisions: list[Decision],
    measured: Measured,
    shots: ShotConfig,
    span: SpanConfig,
    looks: StillScores | None = None,
    takedown: Takedown | None = None,
) -> Candidates:
    """Entries in the order of the source's rows."""
    rows = table.num_rows
    key = measured.files["content_hash"].take(pc.index_in(table["uri"], measured.files["uri"].combine_chunks()))
    readable = np.array([d.verdict == "keep" for d in decisions], bool) & pc.equal(table["bad"], "").to_numpy()
    key = pc.if_else(pa.array(readable), key, None).combine_chunks().dictionary_encode()
    code = pc.fill_null(key.indices, -1).to_numpy()  # content of each row, -1 without
    first_row = np.full(len(key.dictionary) + 1, -1)
    first_row[code[::-1]] = np.arange(rows)[::-1]
    taken = _taken_down(table, takedown, key.dictionary, code) if takedown else {}
    stopped = _stopped(table, decisions, measured, code, first_row, taken)

    pieces = _pieces(key.dictionary, measured, shots, span, looks)
    of_key = pc.index_in(pieces["key"], key.dictionary).to_numpy()
    order = np.argsort(of_key, kind="stable")
    count = np.bincount(of_key, minlength=len(key.dictionary) + 1)
    start = np.cumsum(count) - count

    unstopped = stopped["stage"] == ""
    entries = np.where(unstopped, np.maximum(count[code], 1), 1)
    row = np.repeat(np.arange(rows), entries)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(entries) - entries, entries)
    has_piece = (unstopped & (code >= 0) & (count[code] > 0))[row]
    for name, value in zip(stopped, ("read", "error", "not_measured", "no measurement was stored")):
        stopped[name][unstopped & (count[code] * (code >= 0) == 0)] = value
    at = np.zeros(len(row), np.int64)
    at[has_piece] = order[(start[code[row]] + nth)[has_piece]]
    found = pieces.take(pa.array(at, pa.int64(), mask=~has_piece))

    row = pa.array(row)
    said = {name: table[name].take(row) for name in ("row", "uri", "caption", "source", "attribution")}
    said["license"] = pa.array([d.license for d in decisions], pa.string()).take(row)
    said["content_hash"] = pc.fill_null(key.dictionary.take(key.indices), "").take(row)
    columns = said | {name: found[name] for name in (*_MEASURED, *SCORES, *_LOOKS)}
    columns["media_type"] = pc.coalesce(found["media_type"], table["media_type"].take(row))
    for name in _STOPPED:
        columns[name] = pc.coalesce(found[name], pa.array(stopped[name], pa.string()).take(row))
    for name in (*_MEASURED, *SCORES):
        if name != "media_type":
            columns[name] = pc.fill_null(columns[name], 0 if name in _MEASURED else np.nan)
    columns["clip_id"] = _clip_ids(columns, pc.and_(pa.array(has_piece), pc.not_equal(columns["stage"], "read")))
    return Candidates(pa.table(columns).select(SCHEMA.names).cast(SCHEMA).combine_chunks())


def _clip_ids(columns: dict, has_piece: pa.Array) -> pa.ChunkedArray:
    """A clip's name is its content and its span in milliseconds, never its path; what has no span is row-00000007."""
    times = (pc.round(pc.multiply(columns[name], 1000.0)) for name in ("start_s", "end_s"))
    milliseconds = (pc.cast(pc.cast(time, pa.int64()), pa.string()) for time in times)
    span = pc.binary_join_element_wise(columns["content_hash"], *milliseconds, "-")
    number = pc.utf8_lpad(pc.cast(columns["row"], pa.string()), 8, "0")
    return pc.if_else(has_piece, span, pc.binary_join_element_wise("row", number, "-"))


def _pieces(
    keys: pa.Array, measured: Measured, shots: ShotConfig, config: SpanConfig, looks: StillScores | None
) -> pa.Table:
    """The spans (schema _PIECE) of some contents; of a file that could not be read one entry that says why."""
    out = [_PIECE.empty_table()]
    for group in Snapshot(measured.signals).tables(keys=keys):
        look = looks(set(group["key"].to_pylist())) if looks else {}
        found = []
        for batch in group.to_batches(max_chunksize=256):
            for signals in batch.to_pylist():
                found += _spans_of(signals, shots, config, look.get(signals["key"], ((), None)))
        out.append(pa.Table.from_pylist(found, schema=_PIECE))
    return pa.concat_tables(out)


def _spans_of(
    signals: dict, shots: ShotConfig, config: SpanConfig, look: tuple[Sequence[float], np.ndarray | None]
) -> list[dict]:
    if signals["reason"]:
        why = {"stage": "read", "verdict": "error", "reason": signals["reason"], "detail": signals["detail"]}
        return [{"key": signals["key"], "media_type": signals["media_type"], **why}]
    if signals["media_type"] == "image":
        pieces = [Span(0.0, 0.0)]
    else:
        names = ("cut_s", "cut_change", "cut_histogram", "cut_ratio")
        edges = cuts((Candidate(*c) for c in zip(*(signals[name] for name in names))), shots)
        names = ("dissolve_s", "dissolve_end_s", "dissolve_misfit")
        mixed = [Dissolve(*d) for d in zip(*(signals[name] for name in names)) if d[2] < shots.max_misfit]
        edges += [edge for d in mixed for edge in (d.start_s, d.end_s)]
        pieces = spans(signals["duration_s"], edges, config)
        pieces = [dataclasses.replace(p, reason="dissolve") if _within(p, mixed) else p for p in pieces]
    facts = {name: signals[name] for name in ("key", "media_type", "width", "height", "fps")}
    out = []
    for piece in pieces:
        why = ("spans", "drop", piece.reason, f"{piece.seconds:.2f} s") if piece.reason else ("", "", "", "")
        said = {"start_s": piece.start_s, "end_s": piece.end_s, **dict(zip(_STOPPED, why))}
        out.append(facts | said | _of_span(signals, piece, *look))
    return out


def _within(piece: Span, mixed: list[Dissolve]) -> bool:
    return any(d.start_s - TICK_S < piece.start_s and piece.end_s < d.end_s + TICK_S for d in mixed)


def _of_span(signals: dict, piece: Span, aesthetic: Sequence[float], embeddings: np.ndarray | None) -> dict:
    at = stills_inside(signals["still_s"], piece.start_s, piece.end_s)
    found = span_scores(signals, piece.start_s, piece.end_s, aesthetic)
    found["hashes"] = [signals["phash"][i] for i in at]
    found["contrasts"] = [signals["contrast"][i] for i in at]
    if embeddings is not None:
        mean = embeddings[at].mean(0)
        found["embedding"] = (mean / max(float(np.linalg.norm(mean)), 1e-6)).astype(np.float16).tobytes()
    return found


def _taken_down(table: pa.Table, takedown: Takedown, contents: pa.Array, code: np.ndarray) -> dict[int, str]:
    """Row -> why, of all that a takedown names, and of what has the same content."""
    out = {}
    for row in rows_of(table):
        content = contents[code[row["row"]]].as_py() if code[row["row"]] >= 0 else ""
        if (why := takedown.detail(row | {"content": content})) is not None:
            out[row["row"]] = why
    of_code = {code[i]: why for i, why in out.items() if code[i] >= 0}
    same = np.flatnonzero(np.isin(code, list(of_code)))
    return {int(i): of_code[code[i]] for i in same} | out


def _stopped(
    table: pa.Table, decisions, measured: Measured, code: np.ndarray, first_row: np.ndarray, taken: dict[int, str]
) -> dict[str, np.ndarray]:
    """What stopped each row of the source before it had spans, as columns of _STOPPED; "" where nothing did."""
    out = {name: np.full(table.num_rows, "", dtype=object) for name in _STOPPED}

    def stop(i: int, *why: str) -> None:
        for column, value in zip(out.values(), why):
            column[i] = value

    bad = pc.not_equal(table["bad"], "").to_numpy()
    for i in np.flatnonzero(bad):
        reason, _, detail = table["bad"][i].as_py().partition(": ")
        stop(i, "source", "error", reason, detail)
    failed = pc.is_in(table["uri"], pa.array(measured.failed, pa.string())).to_numpy()
    for i, decision in enumerate(decisions):
        if bad[i]:
            continue
        if decision.verdict != "keep":
            stop(i, "license", decision.verdict, decision.reason, decision.detail)
        elif i in taken:
            stop(i, "takedown", "drop", "taken_down", taken[i])
        elif failed[i]:
            stop(i, "read", "error", *measured.failed[table["uri"][i].as_py()])
        elif code[i] >= 0 and first_row[code[i]] != i:
            stop(i, "duplicate", "drop", "duplicate_content", f"the same bytes as row {first_row[code[i]]}")
    return out
