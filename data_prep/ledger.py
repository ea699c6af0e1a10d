"""The ledger: for every clip and every stage, what was decided and why. Nothing leaves the data without a row here.

A clip is a span of a file, or the whole input when it never became one (unlicensed, broken, a double). Its last row has
stage "final" and the first reason that was not "keep". inputs = kept + dropped + errors, checked when it is written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("row", pa.int64()),  # position in the source
        ("uri", pa.string()),
        ("stage", pa.string()),
        ("verdict", pa.string()),  # keep, drop or error
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("config_hash", pa.string()),
    ]
)
FINAL = "final"


class Ledger:
    """Decisions over N clips, stage by stage, in the order in which they are made.

    Args: clip_ids, rows, uris of the N clips.
    """

    def __init__(self, clip_ids: list[str], rows: list[int], uris: list[str]):
        self._clip = (pa.array(clip_ids, pa.string()), pa.array(rows, pa.int64()), pa.array(uris, pa.string()))
        self.count = len(clip_ids)
        self.verdict = np.full(self.count, "keep", dtype=object)
        self.reason = np.full(self.count, "", dtype=object)
        self._tables: list[pa.Table] = []

    @property
    def kept(self) -> np.ndarray:
        """bool (N,): clips that every stage so far has kept."""
        return self.verdict == "keep"

    def decide(self, stage, verdict, reason="", detail="", score=None, threshold=None, config_hash="", where=None):
        """Record a stage for the clips `where` (bool (N,); all by default). Values are scalars or arrays over all N."""
        at = np.flatnonzero(np.ones(self.count, bool) if where is None else where)
        if not len(at):
            return
        pick = pa.array(at, pa.int64())

        def column(value, kind):
            if value is None or isinstance(value, (str, int, float)):
                return pa.array([value] * len(at), kind)
            return pa.array(np.asarray(value)[at], kind, from_pandas=True)

        text = pa.string()
        verdicts, reasons = column(verdict, text), column(reason, text)
        self._tables.append(
            pa.table(
                [
                    *(part.take(pick) for part in self._clip),
                    column(stage, text),
                    verdicts,
                    reasons,
                    column(detail, text),
                    column(score, pa.float64()),
                    column(threshold, pa.float64()),
                    column(config_hash, text),
                ],
                schema=SCHEMA,
            )
        )
        first = self.kept[at]
        new = np.asarray(verdicts.to_pylist(), dtype=object)
        why = np.asarray(reasons.to_pylist(), dtype=object)
        falls = first & (new != "keep")
        self.verdict[at[falls]], self.reason[at[falls]] = new[falls], why[falls]

    def write(self, path: Path, config_hash: str) -> None:
        """Add the final rows, check that nothing was lost, and write ledger.parquet."""
        self.decide(FINAL, self.verdict.copy(), self.reason.copy(), config_hash=config_hash)
        table = pa.concat_tables(self._tables)
        check(table)
        pq.write_table(table, path, compression="zstd")


def check(table: pa.Table) -> dict[str, int]:
    """Counts of a ledger; AssertionError unless inputs = kept + dropped + errors, each clip told exactly once."""
    final = table.filter(pc.equal(table["stage"], FINAL))
    ids = final["clip_id"].to_pylist()
    assert len(ids) == len(set(ids)), "a clip has two final verdicts"
    assert set(ids) == set(pc.unique(table["clip_id"]).to_pylist()), "a clip has no final verdict"
    counts = dict.fromkeys(("keep", "drop", "error"), 0)
    for entry in final["verdict"].value_counts().to_pylist():
        counts[entry["values"]] = entry["counts"]
    assert sum(counts.values()) == len(ids)
    # A clip is kept exactly when no stage said otherwise.
    others = table.filter(pc.and_(pc.not_equal(table["stage"], FINAL), pc.not_equal(table["verdict"], "keep")))
    lost = set(others["clip_id"].to_pylist())
    assert lost == {i for i, v in zip(ids, final["verdict"].to_pylist()) if v != "keep"}
    return {"clips": len(ids), "kept": counts["keep"], "dropped": counts["drop"], "errors": counts["error"]}
