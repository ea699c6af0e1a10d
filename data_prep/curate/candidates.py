"""Candidate clips: what the source's rows become once licences are decided and files are measured.

One entry per span of a usable file, and one per row that never became a span, with what stopped it. The entries are one
Arrow table, about a kilobyte each: a million clips fit in a laptop's memory.

N: entries; R: rows of the source; D: embedding width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.curate.ledger import Ledger
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
_STILLS = {"hashes": pa.list_(pa.uint64()), "contrasts": pa.list_(pa.float32()), "embedding": pa.binary()}
_MEASURED = {name: FIELDS[name] for name in ("media_type", "start_s", "end_s", "width", "height", "fps")}
_SPAN = pa.schema({"key": pa.string()} | _MEASURED | dict.fromkeys(SCORES, pa.float64()) | _STOPPED | _STILLS)
SCHEMA = pa.schema({"row": pa.int64()} | FIELDS | dict.fromkeys(SCORES, pa.float64()) | _STOPPED | _STILLS)
"""row: position in the source; stage, verdict, reason, detail: what stopped an entry, "" for a usable clip; hashes,
contrasts: of its stills; embedding: float16, their mean, of length 1, or null. All three may be null for entries that
are not clips."""

StillScores = Callable[[set[str]], Mapping[str, tuple[list[float], np.ndarray]]]
"""content hashes -> aesthetic scores and embeddings of each file's stills, for the files that have them."""


@dataclasses.dataclass
class Candidates:
    """N entries: a table of SCHEMA."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def array(self, name: str) -> np.ndarray:
        """A column as numbers or Python strings (N,)."""
        return self.table[name].to_numpy()

    def value(self, name: str, i: int) -> str | float:
        """One cell of a column of texts or numbers."""
        return self.table[name][i].as_py()

    @property
    def usable(self) -> np.ndarray:
        """bool (N,): clips, that is, spans that nothing has stopped before the thresholds."""
        return pc.equal(self.table["stage"], "").to_numpy()

    @property
    def videos(self) -> np.ndarray:
        """bool (N,): entries of video files."""
        return pc.equal(self.table["media_type"], "video").to_numpy()

    @property
    def images(self) -> np.ndarray:
        """bool (N,): entries of photographs."""
        return pc.equal(self.table["media_type"], "image").to_numpy()

    @property
    def left_over(self) -> np.ndarray:
        """bool (N,): spans that are not clips, too short or within a dissolve."""
        return pc.equal(self.table["stage"], "spans").to_numpy()

    @property
    def taken_down(self) -> pa.Array:
        """Content hashes that a takedown names."""
        return pc.unique(self.table.filter(pc.equal(self.table["reason"], "taken_down"))["content_hash"])

    def columns(self) -> pa.Table:
        """The columns of clips.parquet: FIELDS and SCORES."""
        return self.table.select([*FIELDS, *SCORES])

    def scores(self) -> dict[str, np.ndarray]:
        """float (N,) for each of SCORES; NaN where a score has no meaning, and for entries that are not clips, so that
        leftovers do not count in percentiles."""
        return {name: np.where(self.usable, self.array(name), np.nan) for name in SCORES}

    def embeddings(self, at: np.ndarray) -> np.ndarray | None:
        """float32 (len(at), D), or None unless all of them have one."""
        column = self.table["embedding"].take(pa.array(at, pa.int64()))
        if not len(at) or column.null_count:
            return None
        return np.stack([np.frombuffer(e.as_buffer(), np.float16) for e in column]).astype(np.float32)


def find_candidates(
    table: pa.Table,
    decisions: list[Decision],
    measured: Measured,
    shots: ShotConfig,
    span: SpanConfig,
    still_scores: StillScores | None = None,
    takedown: Takedown | None = None,
) -> Candidates:
    """Cut measured files into spans and join them to the source's rows.

    Args:
        table: the source, R rows.
        decisions: the licence decision of each row.
        measured: what is stored of the rows' files.
        shots: which of the stored cut candidates are cuts.
        span: the lengths of clips.
        still_scores: looks up aesthetic scores and embeddings; None without a model.
        takedown: the list of what must go, if any.

    Returns:
        Entries in the order of the source's rows.
    """
    contents, code = _contents(table, decisions, measured)
    taken = _taken_down(table, takedown, contents, code) if takedown else {}
    code[[i for i, d in enumerate(decisions) if d.stage == "caption" and i not in taken]] = -1  # never read
    stopped = _stopped(table, decisions, measured, code, taken)

    measured_spans = _measured_spans(contents, measured, shots, span, still_scores)
    content = pc.index_in(measured_spans["key"], contents).to_numpy()
    order = np.argsort(content, kind="stable")
    count = np.bincount(content, minlength=len(contents) + 1)
    start = np.cumsum(count) - count

    unstopped = stopped["stage"] == ""
    entries = np.where(unstopped, np.maximum(count[code], 1), 1)
    row = np.repeat(np.arange(table.num_rows), entries)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(entries) - entries, entries)
    has_span = (unstopped & (code >= 0) & (count[code] > 0))[row]
    for name, value in zip(stopped, ("read", "error", "not_measured", "no measurement was stored")):
        stopped[name][unstopped & (count[code] * (code >= 0) == 0)] = value
    at = np.zeros(len(row), np.int64)
    at[has_span] = order[(start[code[row]] + nth)[has_span]]
    found = measured_spans.take(pa.array(at, pa.int64(), mask=~has_span))

    row = pa.array(row)
    columns = {name: table[name].take(row) for name in ("row", "uri", "caption", "source", "attribution")}
    columns["license"] = pa.array([d.license for d in decisions], pa.string()).take(row)
    columns["content_hash"] = pc.fill_null(contents.take(pa.array(code, mask=code < 0)), "").take(row)
    columns |= {name: found[name] for name in (*_MEASURED, *SCORES, *_STILLS)}
    columns["media_type"] = pc.coalesce(found["media_type"], table["media_type"].take(row))
    for name in _STOPPED:
        columns[name] = pc.coalesce(found[name], pa.array(stopped[name], pa.string()).take(row))
    for name in (*_MEASURED, *SCORES):
        if name != "media_type":
            columns[name] = pc.fill_null(columns[name], 0 if name in _MEASURED else np.nan)
    columns["clip_id"] = _clip_ids(columns, pc.and_(pa.array(has_span), pc.not_equal(columns["stage"], "read")))
    return Candidates(pa.table(columns).select(SCHEMA.names).cast(SCHEMA).combine_chunks())


def start_ledger(found: Candidates, config_hashes: Mapping[str, str], caption_hash: str = "") -> Ledger:
    """A ledger of everything decided before the thresholds: the stages each entry passed, and the one that stopped it.

    Args:
        config_hashes: digest of each stage's settings, in the order of the stages.
        caption_hash: that of the settings that stop entries without a caption. Whoever has one passes that stage only
            after the thresholds (`pass_captioned`), where it was decided before it moved ahead of decoding.
    """
    ledger = Ledger(found.table["clip_id"], found.table["row"], found.table["uri"])
    stopped_at, verdict, reason, detail = (found.array(name) for name in _STOPPED)
    going = np.ones(ledger.count, bool)
    for stage, config_hash in config_hashes.items():
        here = stopped_at == stage
        ledger.decide(stage, "keep", config_hash=config_hash, where=going & ~here)
        ledger.decide(stage, verdict, reason, detail, config_hash=config_hash, where=here)
        going &= ~here
        if stage == "license":
            bare = going & (stopped_at == "caption")
            ledger.decide("caption", verdict, reason, detail, config_hash=caption_hash, where=bare)
            going &= ~bare
    return ledger


def _contents(table: pa.Table, decisions: list[Decision], measured: Measured) -> tuple[pa.Array, np.ndarray]:
    """(distinct content hashes of the licensed rows, position therein of each row's: (R,), -1 where none is known)."""
    key = measured.files["content_hash"].take(pc.index_in(table["uri"], measured.files["uri"].combine_chunks()))
    licensed = np.array([d.verdict == "keep" or d.stage == "caption" for d in decisions], bool)
    readable = licensed & pc.equal(table["bad"], "").to_numpy()
    key = pc.if_else(pa.array(readable), key, None).combine_chunks().dictionary_encode()
    return key.dictionary, pc.fill_null(key.indices, -1).to_numpy().copy()


def _clip_ids(columns: Mapping[str, pa.ChunkedArray], has_span: pa.Array) -> pa.ChunkedArray:
    """A clip is named by content and span in milliseconds, never by path; without a span it is row-00000007."""
    times = (pc.round(pc.multiply(columns[name], 1000.0)) for name in ("start_s", "end_s"))
    milliseconds = (pc.cast(pc.cast(time, pa.int64()), pa.string()) for time in times)
    span = pc.binary_join_element_wise(columns["content_hash"], *milliseconds, "-")
    number = pc.utf8_lpad(pc.cast(columns["row"], pa.string()), 8, "0")
    return pc.if_else(has_span, span, pc.binary_join_element_wise("row", number, "-"))


def _measured_spans(
    keys: pa.Array, measured: Measured, shots: ShotConfig, config: SpanConfig, still_scores: StillScores | None
) -> pa.Table:
    """The spans (schema _SPAN) of some contents; for a file that could not be read, one entry that says why."""
    out = [_SPAN.empty_table()]
    for group in Snapshot(measured.signals).tables(keys=keys):
        scored = still_scores(set(group["key"].to_pylist())) if still_scores else {}
        found = []
        for batch in group.to_batches(max_chunksize=256):
            for signals in batch.to_pylist():
                found += _spans_of(signals, shots, config, scored.get(signals["key"], ((), None)))
        out.append(pa.Table.from_pylist(found, schema=_SPAN))
    return pa.concat_tables(out)


def _spans_of(
    signals: dict, shots: ShotConfig, config: SpanConfig, scored: tuple[Sequence[float], np.ndarray | None]
) -> list[dict]:
    """Entries of one file (a row of examine.SCHEMA); scored: aesthetic scores and embeddings of its stills."""
    if signals["reason"]:
        why = {"stage": "read", "verdict": "error", "reason": signals["reason"], "detail": signals["detail"]}
        return [{"key": signals["key"], "media_type": signals["media_type"], **why}]
    facts = {name: signals[name] for name in ("key", "media_type", "width", "height", "fps")}
    out = []
    for span in _cut(signals, shots, config):
        stopped = ("spans", "drop", span.reason, f"{span.seconds:.2f} s") if span.reason else ("", "", "", "")
        times = {"start_s": span.start_s, "end_s": span.end_s}
        out.append(facts | times | dict(zip(_STOPPED, stopped)) | _scored_span(signals, span, *scored))
    return out


def _cut(signals: dict, shots: ShotConfig, config: SpanConfig) -> list[Span]:
    """The spans of a file, from its stored cuts and dissolves."""
    if signals["media_type"] == "image":
        return [Span(0.0, 0.0)]
    stored_cuts = zip(*(signals[name] for name in ("cut_s", "cut_change", "cut_histogram", "cut_ratio")))
    edges = cuts((Candidate(*c) for c in stored_cuts), shots)
    dissolves = zip(*(signals[name] for name in ("dissolve_s", "dissolve_end_s", "dissolve_misfit")))
    mixed = [Dissolve(*d) for d in dissolves if d[2] < shots.max_misfit]
    edges += [edge for d in mixed for edge in (d.start_s, d.end_s)]
    found = spans(signals["duration_s"], edges, config)
    return [dataclasses.replace(s, reason="dissolve") if _within(s, mixed) else s for s in found]


def _within(span: Span, mixed: list[Dissolve]) -> bool:
    return any(d.start_s - TICK_S < span.start_s and span.end_s < d.end_s + TICK_S for d in mixed)


def _scored_span(signals: dict, span: Span, aesthetic: Sequence[float], embeddings: np.ndarray | None) -> dict:
    """Scores, and what near-duplicates are found by, of one span."""
    at = stills_inside(signals["still_s"], span.start_s, span.end_s)
    out: dict[str, object] = {**span_scores(signals, span.start_s, span.end_s, aesthetic)}
    out["hashes"] = [signals["phash"][i] for i in at]
    out["contrasts"] = [signals["contrast"][i] for i in at]
    if embeddings is not None:
        mean = embeddings[at].mean(0)
        out["embedding"] = (mean / max(float(np.linalg.norm(mean)), 1e-6)).astype(np.float16).tobytes()
    return out


def _taken_down(table: pa.Table, takedown: Takedown, contents: pa.Array, code: np.ndarray) -> dict[int, str]:
    """Row -> detail, for every row that a takedown names and every row with the same content."""
    out = {}
    for row in rows_of(table):
        content = contents[code[row["row"]]].as_py() if code[row["row"]] >= 0 else ""
        if (why := takedown.detail(row | {"content": content})) is not None:
            out[row["row"]] = why
    of_code = {code[i]: why for i, why in out.items() if code[i] >= 0}
    same = np.flatnonzero(np.isin(code, list(of_code)))
    return {i: of_code[code[i]] for i in same.tolist()} | out


def _stopped(
    table: pa.Table,
    decisions: list[Decision],
    measured: Measured,
    code: np.ndarray,
    taken: Mapping[int, str],
) -> dict[str, np.ndarray]:
    """What stopped each row of the source before it had spans, as columns of _STOPPED; "" where nothing did."""
    out = {name: np.full(table.num_rows, "", dtype=object) for name in _STOPPED}
    first_row = np.full(code.max(initial=-1) + 2, -1)  # of each content
    first_row[code[::-1]] = np.arange(len(code))[::-1]

    def stop(i: int, *why: str) -> None:
        for column, value in zip(out.values(), why):
            column[i] = value

    bad = pc.not_equal(table["bad"], "").to_numpy()
    for i in np.flatnonzero(bad).tolist():
        reason, _, detail = table["bad"][i].as_py().partition(": ")
        stop(i, "source", "error", reason, detail)
    failed = pc.is_in(table["uri"], pa.array(measured.failed, pa.string())).to_numpy()
    for i, decision in enumerate(decisions):
        if bad[i]:
            continue
        if decision.verdict != "keep" and not (decision.stage == "caption" and i in taken):
            stop(i, decision.stage, decision.verdict, decision.reason, decision.detail)
        elif i in taken:
            stop(i, "takedown", "drop", "taken_down", taken[i])
        elif failed[i]:
            stop(i, "read", "error", *measured.failed[table["uri"][i].as_py()])
        elif code[i] >= 0 and first_row[code[i]] != i:
            stop(i, "duplicate", "drop", "duplicate_content", f"the same bytes as row {first_row[code[i]]}")
    return out
