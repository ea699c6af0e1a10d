import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.curate.result import CurationResult
from data_prep.curate.story import summary_lines, tell, why_nothing_was_kept
from data_prep.curate.thresholds import FilterConfig, drop_by_thresholds

LICENSE = {"stage": "license", "verdict": "drop", "reason": "license_unknown", "detail": "no licence is stated"}
CAPTION = {"stage": "caption", "verdict": "drop", "reason": "caption_missing", "detail": "it has no caption"}
BROKEN = {"stage": "read", "verdict": "error", "reason": "truncated", "detail": "6 frames of 745"}


@pytest.fixture
def folder(make, tmp_path):
    """rows -> a folder with the tables of a curation of them."""

    def of(*rows):
        made = make(*rows)
        outcomes = drop_by_thresholds(made.found, made.ledger, FilterConfig())
        CurationResult(made.found, made.ledger, outcomes, None, []).write(tmp_path, "h")
        return tmp_path

    return of


def told(folder, name, **kwargs):
    return "\n".join(tell(folder / "ledger.parquet", name, **kwargs))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([LICENSE] * 3, ["for 3 of 3: license_unknown", "0.mp4: no licence is stated", "--license.assume NAME"]),
        (
            [{**LICENSE, "detail": "'CC BY 4.0' is no SPDX id; did you mean CC-BY-4.0?"}],
            ["did you mean CC-BY-4.0?", "write SPDX ids"],
        ),
        (
            [{**LICENSE, "reason": "license_not_allowed", "detail": "CC-BY-SA-4.0 is not on the allow list"}],
            ["--license.allow-also CC-BY-SA-4.0 adds"],
        ),
        ([CAPTION, CAPTION, LICENSE], ["for 2 of 3: caption_missing", "--columns caption=YOURS", "clip.txt beside"]),
        (
            [{"motion": 0.1, "uri": "/x/dog.mp4"}],
            ["still", "dog.mp4: motion 0.1 is below 0.3", "--filter.min-motion VALUE"],
        ),
        ([{"text_area": 0.5}], ["text area 0.5 is above 0.07", "--filter.max-text-area"]),
        (
            [{"stage": "source", "verdict": "error", "reason": "outside_root", "detail": "it lies outside"}],
            ["for 1 of 1: outside_root", "it lies outside", "--source.roots"],
        ),
        ([BROKEN], ["6 frames of 745", "another copy of the file"]),
    ],
)
def test_when_nothing_is_kept_the_reason_an_example_and_the_flag_are_said(folder, rows, said):
    text = "\n".join(why_nothing_was_kept(folder(*rows)))
    assert text.startswith("nothing was kept; the main reason")
    for part in said:
        assert part in text


def test_nothing_is_said_when_a_clip_was_kept(folder):
    assert why_nothing_was_kept(folder({}, LICENSE)) == []


def test_the_next_hurdle_is_named_with_the_first(folder):
    text = "\n".join(why_nothing_was_kept(folder({**LICENSE, "caption": ""})))
    assert "as there is no caption either: write clip.txt" in text
    assert "either" not in "\n".join(why_nothing_was_kept(folder(LICENSE)))


def test_the_story_of_a_file_has_its_spans_scores_and_thresholds(folder):
    span = {"uri": "/x/dog.mp4", "row": 0}
    rows = [
        {**span, "clip_id": "ab-0-4000", "motion": 9.0, "technical": 8.0},
        {**span, "clip_id": "ab-4000-8000", "motion": 0.1, "technical": 2.0},
        {
            **span,
            "clip_id": "ab-8000-8500",
            "stage": "spans",
            "verdict": "drop",
            "reason": "too_short",
            "detail": "0.50 s",
        },
        {"uri": "/x/cat.mp4", "clip_id": "cd-0-0"},
    ]
    lines = list(tell(folder(*rows) / "ledger.parquet", "dog.mp4"))
    text = "\n".join(lines)
    assert lines[0] == "/x/dog.mp4"
    assert "0 to 4 s (row 0 of the source, ab-0-4000): kept" in text
    assert "motion 9 (at least 0.3), motion 9 (at most 60), technical 8 (at least 3)" in text
    assert "4 to 8 s (row 0 of the source, ab-4000-8000): dropped at min_motion, still: motion 0.1 is below 0.3" in text
    assert "would also be dropped at min_technical, technical: technical 2 is below 3" in text
    assert "8 to 8.5 s (row 0 of the source, ab-8000-8500): dropped at spans, too_short: 0.50 s" in text
    assert "--spans.min-s" in text
    assert "cat.mp4" not in text
    assert "photograph" in told(folder(*rows), "cat.mp4")


def test_one_clip_can_be_asked_for(folder):
    span = {"uri": "/x/dog.mp4", "row": 0}
    made = folder({**span, "clip_id": "ab-0-4000"}, {**span, "clip_id": "ab-4000-8000"})
    assert "0 to 4 s" not in told(made, "ab-4000-8000")
    assert "4 to 8 s" in told(made, "ab-4000-8000")
    assert "0 to 4 s" in told(made, "ab-0-4000-w0000")  # the key of a sample


@pytest.mark.parametrize("name", ["dog.mp4", "x/dog.mp4", "./x/dog.mp4", "/data/x/dog.mp4", "dog"])
def test_files_are_found_by_name_and_by_the_end_of_their_path(folder, name):
    made = folder({"uri": "/data/x/dog.mp4"}, {"uri": "/data/x/bulldog.mp4"})
    assert told(made, name).count(".mp4\n") == 1


def test_all_files_of_a_name_are_told_of_up_to_a_limit(folder):
    made = folder(*({"uri": f"/{i}/dog.mp4"} for i in range(4)))
    assert told(made, "dog.mp4").count("/dog.mp4\n") == 4
    assert told(made, "dog.mp4", limit=3).endswith("... and 1 more files of this name (--limit)")


def test_errors_come_with_the_command_that_replays_them(folder):
    rows = [{**BROKEN, "uri": "/x/a b.mp4"}, {**BROKEN, "uri": "/x/c.mp4", "detail": "killed; replay: python x"}]
    made = folder(*rows)
    assert "replay: python -m data_prep.measure.examine '/x/a b.mp4'" in told(made, "a b.mp4")
    assert told(made, "c.mp4").count("replay:") == 1


def test_a_near_duplicate_names_the_file_that_stayed(make, tmp_path):
    made = make({"uri": "/x/dog.mp4"}, {"uri": "/x/copy.mp4"})
    which = np.array([False, True])
    made.ledger.decide("near_duplicate", "drop", "near_duplicate", "the same footage as c0", where=which)
    made.ledger.write(tmp_path / "ledger.parquet", "h")
    assert "near_duplicate: the same footage as c0, of dog.mp4" in told(tmp_path, "copy.mp4")


@pytest.mark.parametrize(
    ("name", "near"), [("dgo.mp4", "dog.mp4"), ("DOG", "dog.mp4"), ("dog.mp4.part", "dog.mp4"), ("zzz", "it has")]
)
def test_names_that_are_not_found_bring_near_ones(folder, name, near):
    with pytest.raises(ValueError, match="--why: no file or clip of") as why:
        told(folder({"uri": "/x/dog.mp4"}, {"uri": "/x/house.mov"}), name)
    assert near in str(why.value)


def test_a_summary_counts_reasons_with_an_example(folder):
    text = "\n".join(summary_lines(folder({}, CAPTION, CAPTION, {"motion": 0.1}, BROKEN) / "ledger.parquet", limit=2))
    assert "5 clips of 5 files" in text
    assert "1 kept, 3 dropped, 1 errors" in text
    assert "2 caption_missing: there is no caption; for example 1.mp4" in text
    assert "... and 1 more reasons" in text
    assert "--why FILE" in text


def test_other_tables_are_refused_in_one_line(folder, tmp_path):
    scores = folder({}) / "scores.parquet"
    (tmp_path / "text.parquet").write_text("text")
    for path in (scores, tmp_path / "text.parquet"):
        with pytest.raises(ValueError, match="is not readable as the ledger of a curation"):
            list(summary_lines(path))
    assert pq.read_metadata(scores).num_rows == 1
