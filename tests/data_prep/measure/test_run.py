import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from data_prep.measure import run
from data_prep.measure.examine import ExamineConfig
from data_prep.measure.run import DecodeConfig, Examiner, measure, open_stores
from data_prep.media.errors import MediaError
from data_prep.media.fetch import stamp


@pytest.mark.parametrize(
    ("sizes", "max_files", "edges"),
    [
        ([5] * 7, 3, [0, 3, 6, 7]),
        ([100, 60, 30, 20, 5, 5], 16, [0, 1, 3, 6]),  # a file larger than a block is a block
        ([100, 100], 16, [0, 1, 2]),
        ([1], 1, [0, 1]),
    ],
)
def test_blocks_are_bounded_by_files_and_by_bytes(sizes, max_files, edges, monkeypatch):
    monkeypatch.setattr(run, "BLOCK_BYTES", 90)
    assert run._block_edges(np.array(sizes), max_files) == edges


def test_a_stamp_holds_the_size(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(1234))
    assert run._size(stamp(str(tmp_path / "a.tar"))) == 1234
    assert run._size(stamp(f"{tmp_path}/a.tar#512+77.mp4")) == 77
    assert run._size(stamp(str(tmp_path / "absent"))) == 0


def results(*rows):
    return pa.Table.from_pylist([{"stamp": "1-1", "began": 0.0, **row} for row in rows], schema=run._RESULT_SCHEMA)


def test_results_are_stored_by_what_they_hold(tmp_path):
    stores = open_stores(tmp_path, ExamineConfig())
    failed = stores.add(
        results(
            {"uri": "new", "key": "k1", "reason": "", "still_s": [0.0], "jpeg": [b"x"]},
            {"uri": "copy", "key": "k1"},  # content that is measured already
            {"uri": "broken", "key": "k2", "reason": "truncated", "detail": "cut"},
            {"uri": "absent", "reason": "file_missing", "detail": "nothing"},
        )
    )
    stores.flush()
    assert failed == {"absent": ("file_missing", "nothing")}
    files = {row["key"]: row["content_hash"] for row in stores.files.rows()}
    assert files == {"new": "k1", "copy": "k1", "broken": "k2"}
    assert {row["key"]: row["reason"] for row in stores.signals.rows()} == {"k1": "", "k2": "truncated"}
    assert [row["key"] for row in stores.stills.rows()] == ["k1"]


def test_other_settings_have_stores_of_their_own_but_share_the_files(tmp_path):
    one, other = open_stores(tmp_path, ExamineConfig()), open_stores(tmp_path, ExamineConfig(sample_fps=2.0))
    assert one.files.folder == other.files.folder
    assert one.signals.folder != other.signals.folder
    assert one.stills.folder != other.stills.folder


def test_only_transient_failures_within_the_budget_are_tried_again(tmp_path):
    stores = open_stores(tmp_path, ExamineConfig())
    rows = {"good": ("", 1), "final": ("truncated", 1), "once": ("crashed", 1), "spent": ("timed_out", 2)}
    stores.add(results(*({"uri": k, "key": k, "reason": r, "attempts": n} for k, (r, n) in rows.items())))
    stores.flush()
    done, attempts = run._examined(stores.signals, budget=2)
    assert set(done.to_pylist()) == {"good", "final", "spent"}
    assert attempts == {"once": 1}


def test_missing_files_and_known_ones_need_no_workers(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    stores = open_stores(tmp_path / "store", ExamineConfig())
    known = results({"uri": str(path), "key": "k", "reason": ""})
    stores.add(known.set_column(1, "stamp", pa.array([stamp(str(path))])))
    stores.flush()
    absent = str(tmp_path / "absent.mp4")
    found = measure(pa.array([str(path), absent]), tmp_path / "store", ExamineConfig(), DecodeConfig())
    assert found.files.to_pylist() == [{"uri": str(path), "content_hash": "k"}]
    assert found.failed[absent][0] == "file_missing"
    assert found.new == 0
    path.write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"--refilter: 1 clips"):
        measure(pa.array([str(path)]), tmp_path / "store", ExamineConfig(), DecodeConfig(), allow_new=False)
    skipped = measure(
        pa.array([str(path)]), tmp_path / "store", ExamineConfig(), DecodeConfig(), False, pa.array([str(path)])
    )
    assert skipped.files["content_hash"].to_pylist() == ["k"]


class Child:
    """In place of the decoding process: fails with these reasons in turn, then succeeds."""

    def __init__(self, *reasons):
        self.reasons = list(reasons)

    def call(self, *args, timeout_s):
        if self.reasons:
            raise MediaError(self.reasons.pop(0), "why")
        return {"reason": ""}, [b"jpeg"]


@pytest.mark.parametrize(
    ("reasons", "before", "reason", "attempts"),
    [
        ([], 0, "", 1),
        (["crashed"], 0, "", 2),
        (["crashed", "timed_out"], 0, "timed_out", 2),
        (["crashed"], 1, "crashed", 2),  # one try of an earlier run counts
        (["truncated"], 0, "truncated", 1),
    ],
)
def test_tries_of_a_file(reasons, before, reason, attempts):
    examiner = object.__new__(Examiner)
    examiner.config, examiner.decode, examiner.attempts = ExamineConfig(), DecodeConfig(attempts=2), {"k": before}
    examiner.child = Child(*reasons)
    row = examiner._examine("s3://b/a.mp4", "a.mp4", "k")
    assert (row["reason"], row["attempts"]) == (reason, attempts)
    assert ("replay: python -m data_prep.measure.examine 's3://b/a.mp4'" in row.get("detail", "")) == (
        reason in run.TRANSIENT
    )


@pytest.mark.parametrize("field", ["timeout_s", "attempts", "threads", "cpus"])
def test_bad_settings_name_their_flag(field):
    with pytest.raises(ValueError, match=f"--decode.{field.replace('_', '-')}"):
        dataclasses.replace(DecodeConfig(), **{field: 0})
