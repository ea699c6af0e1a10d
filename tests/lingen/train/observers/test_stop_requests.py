"""Requests to save or to stop: this rank's, those that all are asked for together, the strongest counts."""

import pytest

from lingen.train.observers import stop_requests
from lingen.train.observers.observer import Step
from lingen.train.observers.preemption import Notice
from lingen.train.observers.stop_requests import StopRequests


def notice_after(requests, flags=None):
    """The notice of a step; `flags` are what the ranks agreed on (default: this rank's)."""
    step = Step(0, last=False)
    requests.before_step(step)
    step.flags |= flags or {}
    requests.after_step(step)
    return step.notice


def test_a_ranks_own_notice_is_the_steps(process_group):
    answers = iter([Notice.NONE, Notice.STOP])
    requests = StopRequests(lambda: next(answers))
    assert notice_after(requests) == Notice.NONE
    assert notice_after(requests) == Notice.STOP


def test_what_another_rank_noticed_is_obeyed(process_group):
    assert notice_after(StopRequests(lambda: Notice.NONE), {"notice": Notice.STOP}) == Notice.STOP


@pytest.mark.parametrize(("own", "together", "expected"), [(0, 1, Notice.SAVE), (2, 1, Notice.STOP)])
def test_all_are_asked_together_now_and_then(process_group, monkeypatch, own, together, expected):
    asked = []

    def notice_together():
        asked.append(1)
        return Notice(together)

    requests = StopRequests(lambda: Notice(own), notice_together)
    assert notice_after(requests) == Notice(own)
    assert not asked, "not at every step"
    monkeypatch.setattr(stop_requests, "ASK_TOGETHER_S", 0.0)
    assert notice_after(requests) == expected
    monkeypatch.setattr(stop_requests, "ASK_TOGETHER_S", 60.0)
    assert notice_after(requests) == Notice(own)
    assert len(asked) == 1
