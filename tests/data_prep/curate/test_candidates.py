import math

import numpy as np
import pyarrow as pa
import pytest

from data_prep.curate.candidates import find_candidates, start_ledger
from data_prep.curate.license import LicenseConfig, gate
from data_prep.curate.spans import SpanConfig
from data_prep.curate.takedown import Takedown
from data_prep.measure.cuts import ShotConfig
from data_prep.measure.examine import ExamineConfig
from data_prep.measure.run import DecodeConfig, measure
from data_prep.sources.manifest import SCHEMA


@pytest.fixture
def source(clips):
    """A video, the same again, a photograph, a file that is absent, one without a licence, one outside its folder."""
    video, photo = (str(clips / name) for name in ("videos/learning-area_frog.mp4", "photos/test_data_owl.jpg"))
    rows = [(video, "MIT", ""), (video, "MIT", ""), (photo, "MIT", ""), ("/nowhere.mp4", "MIT", "")]
    rows += [(photo, "", ""), ("x.mp4", "MIT", "outside_root: ../x.mp4")]
    columns = {"row": range(len(rows)), **dict(zip(("uri", "license", "bad"), zip(*rows)))}
    return pa.table({n: columns.get(n, ["words"] * len(rows)) for n in SCHEMA.names}, schema=SCHEMA)


@pytest.fixture
def found(source, fill_store, tmp_path):
    """find_candidates of the source, with other settings as arguments."""
    decisions, uris = gate(source, LicenseConfig())
    fill_store(tmp_path / "store", [uri for uri in uris.to_pylist() if uri != "/nowhere.mp4"])

    def find(lengths=(), still_scores=None, takedown=None):
        measured = measure(uris, tmp_path / "store", ExamineConfig(), DecodeConfig(), allow_new=False)
        spans = SpanConfig(lengths_s=lengths)
        return find_candidates(source, decisions, measured, ShotConfig(), spans, still_scores, takedown)

    return find


def test_every_row_becomes_spans_or_says_what_stopped_it(found):
    whole = found()
    stages = dict(zip(whole.array("row").tolist(), whole.array("reason").tolist()))
    assert stages == dict(enumerate(["", "duplicate_content", "", "file_missing", "license_unknown", "outside_root"]))
    assert whole.array("clip_id")[3] == "row-00000003"
    assert whole.usable.tolist() == [True, False, True, False, False, False]
    assert math.isnan(whole.scores()["technical"][1])
    ids = [whole.value("clip_id", i) for i in (0, 2)]
    assert ids[0].startswith(f"{whole.value('content_hash', 0)}-0-8")
    assert ids[1] == f"{whole.value('content_hash', 2)}-0-0"

    cut = found(lengths=(3.0,))
    assert cut.array("row").tolist() == [0, 0, 0, 1, 2, 3, 4, 5]
    assert cut.array("start_s")[:3].tolist() == pytest.approx([0.0, 3.0, 6.0])
    assert cut.left_over.tolist() == [False, False, True] + [False] * 5


def test_embeddings_are_means_over_the_stills_of_a_span(found):
    def still_scores(keys):
        return {key: ([6.0] * 100, np.tile(np.float32([3.0, 4.0]), (100, 1))) for key in keys}

    scored = found(still_scores=still_scores)
    assert scored.embeddings(np.array([0, 2])) == pytest.approx(np.tile([0.6, 0.8], (2, 1)), abs=1e-3)
    assert scored.scores()["aesthetic"][[0, 2]].tolist() == [6.0, 6.0]
    assert scored.embeddings(np.array([0, 3])) is None


def test_what_is_taken_down_goes_with_every_copy(found, source, tmp_path):
    (tmp_path / "gone.csv").write_text("uri,detail\nlearning-area_frog.mp4,asked\n")
    gone = found(takedown=Takedown.read(tmp_path / "gone.csv"))
    assert gone.array("reason").tolist()[:2] == ["taken_down"] * 2
    assert gone.array("detail").tolist()[:2] == ["asked"] * 2
    assert gone.taken_down.to_pylist() == [gone.value("content_hash", 0)]


def test_the_ledger_starts_with_all_that_each_entry_passed(make):
    made = make({}, {"stage": "read", "verdict": "error", "reason": "truncated", "detail": "cut"})
    ledger = start_ledger(made.found, {"license": "a", "read": "b", "spans": "c"})
    assert ledger.kept.tolist() == [True, False]
    assert ledger.reason.tolist() == ["", "truncated"]
