import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.curate.result import CurationResult, Summary, summarise
from data_prep.measure.run import Measured


@pytest.fixture
def result(make):
    """A video of an hour, a photograph, half an hour too short for a clip, a broken file, and a still video."""
    made = make(
        {"seconds": 3600.0, "license": "MIT"},
        {"seconds": np.nan, "media_type": "image", "license": "MIT"},
        {"seconds": 1800.0, "stage": "spans", "verdict": "drop", "reason": "leftover"},
        {"seconds": np.nan, "stage": "read", "verdict": "error", "reason": "truncated"},
        {"seconds": 3600.0},
    )
    made.ledger.decide("min_motion", "drop", "still", where=np.arange(5) == 4)
    return CurationResult(made.found, made.ledger, [], None, [])


def test_the_summary_counts_clips_and_hours(result):
    summary = summarise(result, 7, Measured(None, {}, None, None, new=3, start_s=0.5), 2.0)
    assert (summary.inputs, summary.clips, summary.kept, summary.dropped, summary.errors) == (7, 5, 2, 2, 1)
    assert (summary.videos_kept, summary.images_kept) == (1, 1)
    assert (summary.hours_measured, summary.hours_kept, summary.hours_left_over) == (2.5, 1.0, 0.5)
    assert summary.reasons == {"leftover": 1, "truncated": 1, "still": 1}
    assert summary.licenses == {"MIT": 2}
    rows = dict(summary.rows())
    assert (rows["files read"], rows["took"], rows["  of it, Ray's start"], rows["  still"]) == (3, "2.0 s", "0.5 s", 1)
    assert (rows["video measured"], rows["video kept"], rows["video left over"]) == ("2.5 h", "60.0 min", "30.0 min")


def test_bugs_of_ours_are_counted_apart_from_the_errors_of_files(make):
    failed = {"stage": "read", "verdict": "error"}
    made = make({}, failed | {"reason": "truncated"}, failed | {"reason": "internal_error"})
    summary = summarise(CurationResult(made.found, made.ledger, [], None, []), 3, Measured(None, {}, None, None), 1.0)
    assert (summary.errors, summary.internal_errors) == (2, 1)
    assert summary.inputs == summary.kept + summary.dropped + summary.errors
    assert dict(summary.rows())["internal errors"] == 1


def test_a_summary_of_earlier_versions_is_still_read(result):
    summary = summarise(result, 7, Measured(None, {}, None, None), 2.0)
    earlier = dataclasses.asdict(summary)
    del earlier["internal_errors"]
    assert Summary(**earlier) == summary


def test_the_tables_have_every_span_once(result, tmp_path):
    for name in result.write(tmp_path, "h"):
        assert pq.read_metadata(tmp_path / name).num_rows
    assert pq.read_table(tmp_path / "clips.parquet")["clip_id"].to_pylist() == ["c0", "c1"]
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores["verdict"].to_pylist() == ["keep", "keep", "drop", "error", "drop"]
    assert scores["reason"].to_pylist() == ["", "", "leftover", "truncated", "still"]
