import dataclasses
import os

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from data_prep.measure import run
from data_prep.measure.examine import ExamineConfig
from data_prep.measure.run import DecodeConfig, Examiner, hash_file, measure, open_stores, start_child
from data_prep.media.errors import IN_A_ROW, BugAlarm, MediaError, OurBug
from data_prep.media.fetch import content_hash, stamp
from data_prep.media.isolate import Isolated


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


def test_internal_errors_are_examined_again_in_every_run_that_may_read(tmp_path):
    """The next run may have the code that mends them; --refilter decides with what is stored."""
    stores = open_stores(tmp_path, ExamineConfig())
    stores.add(results({"uri": "a", "key": "a", "reason": "internal_error", "detail": "TypeError", "attempts": 5}))
    stores.flush()
    done, attempts = run._examined(stores.signals, budget=2)
    assert (done.to_pylist(), attempts) == ([], {})
    assert run._examined(stores.signals, budget=2, allow_new=False)[0].to_pylist() == ["a"]


def test_results_in_a_row_that_are_all_our_bugs_raise_the_alarm():
    def bugs(first, count):
        rows = (
            {"uri": f"u{i}", "key": f"k{i}", "reason": "internal_error", "detail": "x"}
            for i in range(first, first + count)
        )
        return results(*rows)

    alarm = BugAlarm()
    run._note(alarm, bugs(0, IN_A_ROW - 1))
    run._note(alarm, results({"uri": "good", "key": "k", "reason": ""}))
    run._note(alarm, bugs(0, IN_A_ROW - 1))
    run._note(alarm, results({"uri": "copy", "key": "k0"}))  # content that is measured already
    run._note(alarm, bugs(0, 1))
    with pytest.raises(OurBug):
        run._note(alarm, bugs(1, IN_A_ROW))


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

    def call(self, function, *args, timeout_s):
        if function is hash_file:
            return "k"
        if self.reasons:
            raise MediaError(self.reasons.pop(0), "why")
        return {"reason": ""}, [b"jpeg"]


def examiner(child, before=0, **decode):
    """An Examiner outside of Ray."""
    made = object.__new__(Examiner)
    made.config, made.decode, made.attempts = ExamineConfig(), DecodeConfig(attempts=2, **decode), {"k": before}
    made.child, made.done = child, np.array([], "S32")
    return made


@pytest.mark.parametrize(
    ("reasons", "before", "reason", "attempts"),
    [
        ([], 0, "", 1),
        (["crashed"], 0, "", 2),
        (["crashed", "timed_out"], 0, "timed_out", 2),
        (["crashed"], 1, "crashed", 2),  # one try of an earlier run counts
        (["truncated"], 0, "truncated", 1),
        (["internal_error"], 0, "internal_error", 1),  # the same code would fail again
    ],
)
def test_tries_of_a_file(reasons, before, reason, attempts):
    row = examiner(Child(*reasons), before)._examine("s3://b/a.mp4", "a.mp4", "k")
    assert (row["reason"], row["attempts"]) == (reason, attempts)
    assert ("replay: python -m data_prep.measure.examine s3://b/a.mp4" in row.get("detail", "")) == (
        reason in {*run.TRANSIENT, "internal_error"}
    )


class Raises:
    """In place of the decoding process, or of anything else: raises."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *args, **options):
        raise self.error

    call = __call__


@pytest.mark.parametrize("where", ["stamp", "local_copy", "child", "row"])
def test_whatever_happens_around_a_file_is_its_row(tmp_path, monkeypatch, where):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    raises = Raises(ZeroDivisionError("not foreseen"))
    made = examiner(raises if where == "child" else Child())
    if where in ("stamp", "local_copy"):
        monkeypatch.setattr(run, where, raises)
    if where == "row":
        monkeypatch.setattr(made, "_examine", lambda *args: {"key": "k", "reason": "", "width": "not a number"})
    (row,) = made(pa.table({"uri": [str(path)]})).to_pylist()
    assert (row["uri"], row["key"], row["reason"]) == (str(path), None, "internal_error")
    kind = "ArrowInvalid" if where == "row" else "ZeroDivisionError: not foreseen"
    assert row["detail"].startswith(kind)
    assert f"({'data_prep/measure/run' if where == 'row' else 'tests/data_prep/measure/test_run'}.py:" in row["detail"]
    assert row["detail"].endswith(f"; replay: python -m data_prep.measure.examine {path}")


def test_one_file_of_a_batch_does_not_take_the_others_with_it(tmp_path):
    paths = [tmp_path / name for name in ("a.mp4", "b.mp4", "pipe.mp4", "huge.mp4", "no.mp4")]
    for path in paths[:2]:
        path.write_bytes(b"x")
    os.mkfifo(paths[2])
    paths[3].touch()
    os.truncate(paths[3], 2 << 40)  # a hole: no disk is used, and nobody could hash it in time
    made = examiner(Child("internal_error"), max_file_gb=20)
    rows = made(pa.table({"uri": [str(path) for path in paths]})).to_pylist()
    assert [row["reason"] for row in rows] == ["internal_error", "", "not_a_file", "too_large", "file_missing"]
    assert [row["key"] for row in rows] == ["k", "k", None, None, None]


def test_hashing_has_the_time_limit_of_reading(tmp_path):
    path = tmp_path / "huge.mp4"
    path.touch()
    os.truncate(path, 2 << 40)
    child = Isolated()
    row = examiner(child, max_file_gb=4096, timeout_s=1.0)._fetch_and_examine(str(path))
    child.close()
    assert row["reason"] == "timed_out"


def test_files_that_cannot_be_read_to_be_hashed_are_not_our_bug(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    assert hash_file(str(path)) == content_hash(str(path))
    monkeypatch.setattr(run, "content_hash", Raises(OSError(5, "Input/output error")))
    with pytest.raises(MediaError, match=r"fetch_failed.*Input/output error"):
        hash_file(str(path))


def test_a_child_that_cannot_start_ends_the_job(monkeypatch):
    monkeypatch.setattr(run, "examine", None)
    with pytest.raises(MediaError, match="internal_error: TypeError: 'NoneType' object is not callable"):
        start_child(ExamineConfig(), DecodeConfig())


@pytest.mark.slow
def test_a_bug_costs_the_files_it_meets_and_stops_the_job_when_it_meets_all(tmp_path):
    uris = []
    for i in range(IN_A_ROW + 4):
        uris.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (32, 32), (i, 0, 0)).save(uris[-1])
    broken = ExamineConfig()
    object.__setattr__(broken, "still_every_s", "2")
    few, decode = pa.array(uris[:3]), DecodeConfig(workers=1)
    found = measure(few, tmp_path / "store", broken, decode)
    assert found.new == 3
    rows = list(found.signals.rows())
    assert {row["reason"] for row in rows} == {"internal_error"}
    assert all("TypeError" in row["detail"] and "examine.py:" in row["detail"] for row in rows)
    assert measure(few, tmp_path / "store", broken, decode).new == 3
    assert measure(few, tmp_path / "store", broken, decode, allow_new=False).new == 0
    with pytest.raises(OurBug, match="different files in a row"):
        measure(pa.array(uris), tmp_path / "store", broken, decode)
    assert open_stores(tmp_path / "store", broken).signals.table().num_rows > IN_A_ROW  # what was found is kept


@pytest.mark.parametrize("field", ["timeout_s", "attempts", "threads", "cpus"])
def test_bad_settings_name_their_flag(field):
    with pytest.raises(ValueError, match=f"--decode.{field.replace('_', '-')}"):
        dataclasses.replace(DecodeConfig(), **{field: 0})
