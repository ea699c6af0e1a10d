"""The ledger: for every clip and every stage, what was decided and why. Nothing leaves the data without a row here.

A clip is a span of a file, or the whole input when it never became one (unlicensed, broken, a duplicate). Its last row
has the stage "final" and the verdict and reason of the first stage that did not keep it. inputs = kept + dropped +
errors is checked when the ledger is written.

N: clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
GROUP = 2048
"""Clips per row group, where each name is stored once; only their rows are in memory as text at once."""

Values = str | np.ndarray
"""One text for all clips, or one per clip."""


@dataclasses.dataclass(frozen=True)
class _Stage:
    """One stage over the clips `at` (int64). values: column -> one for all of them, or an array as long as `at`."""

    at: np.ndarray
    values: dict[str, object]

    def table(self, clips: pa.Table, start: int, end: int) -> pa.Table:
        """The stage's ledger rows for the clips from start to end."""
        here = slice(*np.searchsorted(self.at, (start, end)))
        at = self.at[here]
        columns = {name: clips[name].take(pa.array(at)) for name in clips.column_names}
        for name, value in self.values.items():
            kind = SCHEMA.field(name).type
            if isinstance(value, np.ndarray):
                columns[name] = pa.array(value[here], kind, from_pandas=True)
            else:
                columns[name] = pa.repeat(pa.scalar(value, kind), len(at))
        return pa.table(columns).select(SCHEMA.names)


class Ledger:
    """Decisions over N clips, stage by stage, in the order in which they are made.

    Args:
        clip_ids: names of the N clips.
        rows: positions in the source.
        uris: where their files are.
    """

    def __init__(
        self,
        clip_ids: Sequence[str] | pa.ChunkedArray,
        rows: Sequence[int] | pa.ChunkedArray,
        uris: Sequence[str] | pa.ChunkedArray,
    ):
        self._clips = pa.table({"clip_id": clip_ids, "row": rows, "uri": uris}, schema=pa.schema(list(SCHEMA)[:3]))
        self.count = len(clip_ids)
        self.verdict = np.full(self.count, "keep", dtype=object)
        self.reason = np.full(self.count, "", dtype=object)
        self._stages: list[_Stage] = []

    @property
    def kept(self) -> np.ndarray:
        """bool (N,): clips that every stage so far has kept."""
        return self.verdict == "keep"

    def decide(
        self,
        stage: str,
        verdict: Values,
        reason: Values = "",
        detail: Values = "",
        score: np.ndarray | None = None,
        threshold: float | None = None,
        config_hash: str = "",
        where: np.ndarray | None = None,
    ) -> None:
        """Record a stage. Arrays are over all N clips.

        Args:
            verdict: keep, drop or error.
            where: bool (N,), the clips that the stage decided about; all by default.
        """
        at = np.flatnonzero(np.ones(self.count, bool) if where is None else where)
        if not len(at):
            return
        columns: dict[str, object] = {"stage": stage, "verdict": verdict, "reason": reason, "detail": detail}
        columns |= {"score": score, "threshold": threshold, "config_hash": config_hash}
        values = {name: v[at] if isinstance(v, np.ndarray) else v for name, v in columns.items()}
        self._stages.append(_Stage(at, values))
        new = np.broadcast_to(np.asarray(values["verdict"], dtype=object), at.shape)
        why = np.broadcast_to(np.asarray(values["reason"], dtype=object), at.shape)
        leaves = self.kept[at] & (new != "keep")
        self.verdict[at[leaves]], self.reason[at[leaves]] = new[leaves], why[leaves]

    def write(self, path: Path, config_hash: str) -> None:
        """Add the final rows, write the Parquet file, and check that nothing was lost."""
        self.decide(FINAL, self.verdict.copy(), self.reason.copy(), config_hash=config_hash)
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
            for start in range(0, self.count, GROUP):
                tables = [stage.table(self._clips, start, start + GROUP) for stage in self._stages]
                writer.write_table(pa.concat_tables(tables))
        names = ["clip_id", "stage", "verdict"]
        check(pq.read_table(path, columns=names, read_dictionary=names))


def check(table: pa.Table) -> dict[str, int]:
    """Count the final verdicts of a ledger.

    Args:
        table: at least the columns clip_id, stage and verdict.

    Returns:
        Numbers of clips, kept, dropped and errors.

    Raises:
        AssertionError: a clip has no final verdict, two, or one that its stages contradict.
    """
    clip = _codes(table["clip_id"])[0]
    final = np.asarray(pc.equal(table["stage"].cast(pa.string()), FINAL))
    verdict, texts = _codes(table["verdict"])
    names = np.array(texts)
    times = np.bincount(clip[final], minlength=int(clip.max(initial=-1)) + 1)
    assert (times < 2).all(), "a clip has two final verdicts"
    assert (times > 0).all(), "a clip has no final verdict"
    counts = {name: int((names[verdict[final]] == name).sum()) for name in ("keep", "drop", "error")}
    assert sum(counts.values()) == len(times)
    # A clip is kept exactly when no stage said otherwise.
    lost = np.zeros(len(times), bool)
    lost[clip[~final & (names[verdict] != "keep")]] = True
    assert (lost[clip[final]] == (names[verdict[final]] != "keep")).all(), "a final verdict contradicts the stages"
    return {"clips": len(times), "kept": counts["keep"], "dropped": counts["drop"], "errors": counts["error"]}


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """A text column as integer codes, and the texts they stand for (none for 100 or more)."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    return whole.indices.to_numpy(), whole.dictionary.to_pylist() if len(whole.dictionary) < 100 else []
