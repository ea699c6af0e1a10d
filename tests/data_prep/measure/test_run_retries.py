"""Which failures of fetching and reading are tried again: those that may pass, within the budget."""

import contextlib

import numpy as np
import pytest

from data_prep.measure import run
from data_prep.measure.examine import ExamineConfig
from data_prep.measure.run import DecodeConfig, Examiner
from data_prep.media.errors import MediaError


@pytest.fixture
def examiner():
    """An Examiner with a budget of three tries, no child process, and one file that is measured already."""
    made = object.__new__(Examiner)
    made.config, made.decode, made.attempts = ExamineConfig(), DecodeConfig(attempts=3), {}
    made.done = np.array([b"known"])
    return made


def failing(*errors):
    """In place of local_copy: raises these in turn, then gives a path. Its `calls` counts."""
    left = list(errors)

    @contextlib.contextmanager
    def local_copy(uri, max_gb):
        local_copy.calls += 1
        if left:
            raise left.pop(0)
        yield "copy.mp4"

    local_copy.calls = 0
    return local_copy


class Hashing:
    """In place of the decoding process: every file is the one that is measured already."""

    def call(self, *args, timeout_s):
        return "known"


@pytest.mark.parametrize(
    ("errors", "calls", "reason"),
    [
        ([], 1, None),
        ([MediaError("fetch_failed", "why")], 2, None),
        ([OSError("why")] * 2, 3, None),
        ([OSError("why")] * 3, 3, "fetch_failed"),
        ([MediaError("timed_out", "why")] * 3, 3, "timed_out"),
        ([MediaError("file_missing", "why")], 1, "file_missing"),
        ([MediaError("fetch_failed", "x"), MediaError("too_large", "why")], 2, "too_large"),
    ],
)
def test_a_fetch_is_tried_again_only_where_another_try_may_pass(examiner, monkeypatch, errors, calls, reason):
    local_copy, examiner.child = failing(*errors), Hashing()
    monkeypatch.setattr(run, "local_copy", local_copy)
    row = examiner._fetch_and_examine("s3://b/a.mp4")
    assert local_copy.calls == calls
    if reason is None:
        assert row == {"key": "known"}
    else:
        assert row["reason"] == reason
        assert row["detail"].startswith("why")


class Child:
    """In place of the decoding process: always fails with this reason, and counts."""

    def __init__(self, reason):
        self.reason, self.calls = reason, 0

    def call(self, *args, timeout_s):
        self.calls += 1
        raise MediaError(self.reason, "why")


@pytest.mark.parametrize("reason", ["timed_out", "crashed", "out_of_memory", "fetch_failed"])
def test_what_may_pass_is_tried_to_the_end_of_the_budget_and_says_how_to_replay(examiner, reason):
    examiner.child = Child(reason)
    row = examiner._examine("a.mp4", "a.mp4", "k")
    assert (row["reason"], row["attempts"], examiner.child.calls) == (reason, 3, 3)
    assert "set aside after 3 tries; replay: " in row["detail"]


@pytest.mark.parametrize("reason", ["truncated", "decode_error", "no_video", "too_large"])
def test_what_cannot_pass_is_final_at_the_first_try(examiner, reason):
    examiner.child = Child(reason)
    row = examiner._examine("a.mp4", "a.mp4", "k")
    assert (row["reason"], row["attempts"], examiner.child.calls) == (reason, 1, 1)
    assert row["detail"] == "why"
