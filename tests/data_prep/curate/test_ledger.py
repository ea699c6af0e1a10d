import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.curate.ledger import GROUP, SCHEMA, Ledger, check


def test_the_first_reason_counts_and_every_stage_is_recorded(tmp_path):
    ledger = Ledger(["a", "b", "c", "d"], [0, 1, 2, 3], ["u"] * 4)
    ledger.decide("read", "keep", where=np.array([True, True, True, False]))
    ledger.decide("read", "error", "truncated", "cut", where=np.array([False, False, False, True]))
    going = np.array([True, True, True, False])
    score = np.array([1.0, 0.1, 0.2, np.nan])
    ok = score > 0.15
    ledger.decide("min_motion", np.where(ok, "keep", "drop"), np.where(ok, "", "still"), "", score, 0.15, where=going)
    ok = score > 0.5
    ledger.decide("min_technical", np.where(ok, "keep", "drop"), np.where(ok, "", "technical"), where=going)
    assert ledger.verdict.tolist() == ["keep", "drop", "drop", "error"]
    assert ledger.reason.tolist() == ["", "still", "technical", "truncated"]
    ledger.write(tmp_path / "ledger.parquet", "h")
    table = pq.read_table(tmp_path / "ledger.parquet")
    assert table.schema.equals(SCHEMA)
    assert check(table) == {"clips": 4, "kept": 1, "dropped": 2, "errors": 1}
    b = [r for r in table.to_pylist() if r["clip_id"] == "b"]
    assert [r["stage"] for r in b] == ["read", "min_motion", "min_technical", "final"]
    assert b[1]["score"] == pytest.approx(0.1)


def test_a_score_that_is_not_known_is_null(tmp_path):
    ledger = Ledger(["a", "b"], [0, 1], ["u", "v"])
    ledger.decide("min_motion", "keep", score=np.array([2.0, np.nan]), threshold=0.5)
    ledger.write(tmp_path / "l.parquet", "h")
    table = pq.read_table(tmp_path / "l.parquet")
    assert table["score"].to_pylist() == [2.0, None, None, None]
    assert table["threshold"].to_pylist() == [0.5, 0.5, None, None]


def test_an_empty_ledger_is_written_and_holds(tmp_path):
    Ledger([], [], []).write(tmp_path / "l.parquet", "h")
    assert check(pq.read_table(tmp_path / "l.parquet")) == dict.fromkeys(("clips", "kept", "dropped", "errors"), 0)


def test_the_check_counts_every_verdict():
    ledger = pa.table({"clip_id": list("abc"), "stage": ["final"] * 3, "verdict": ["error", "keep", "drop"]})
    stages = pa.table({"clip_id": list("aabc"), "stage": ["x", "y"] * 2, "verdict": ["error", "keep", "keep", "drop"]})
    assert check(pa.concat_tables([stages, ledger])) == {"clips": 3, "kept": 1, "dropped": 1, "errors": 1}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("lost", "no final verdict"),
        ("twice", "two final verdicts"),
        ("hidden", "contradicts"),
        ("dropped", "contradicts"),
    ],
)
def test_the_check_notices_clips_that_are_lost_doubled_or_contradicted(harm, message):
    def row(clip, stage, verdict):
        return dict.fromkeys(SCHEMA.names) | {"clip_id": clip, "stage": stage, "verdict": verdict}

    rows = [row("a", "read", "keep"), row("a", "final", "keep"), row("b", "read", "drop"), row("b", "final", "drop")]
    if harm == "lost":
        rows.pop()
    elif harm == "twice":
        rows.append(row("a", "final", "keep"))
    elif harm == "hidden":
        rows[-1]["verdict"] = "keep"
    else:
        rows[1]["verdict"] = "drop"
    with pytest.raises(AssertionError, match=message):
        check(pa.Table.from_pylist(rows, schema=SCHEMA))


def test_row_groups_keep_the_clips_in_order_and_each_with_all_its_stages(tmp_path):
    count = GROUP + 3
    names = [f"c{i}" for i in range(count)]
    ledger = Ledger(names, range(count), ["u"] * count)
    late = np.arange(count) >= GROUP
    ledger.decide("max_motion", "drop", "too_fast", score=np.arange(count) / 2, threshold=1.5, where=late)
    ledger.decide("nobody", "drop", where=np.zeros(count, bool))
    ledger.write(tmp_path / "l.parquet", "h")
    table = pq.read_table(tmp_path / "l.parquet")
    assert pq.ParquetFile(tmp_path / "l.parquet").num_row_groups == 2
    final = table.filter(pc.equal(table["stage"], "final"))
    assert final["clip_id"].to_pylist() == names
    assert set(final["config_hash"].to_pylist()) == {"h"}
    fast = table.filter(pc.equal(table["stage"], "max_motion"))
    assert fast["score"].to_pylist() == [i / 2 for i in range(GROUP, count)]
    assert set(fast["threshold"].to_pylist()) == {1.5}
