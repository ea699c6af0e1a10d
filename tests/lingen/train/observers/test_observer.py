"""Observers: nested around a step, timed and named by phase; what a step tells them."""

import pytest

from lingen.train.observers.observer import Observer, Observers, Step


class Witness(Observer):
    """Notes every call."""

    def __init__(self, name, calls, phase="", reason=None):
        self.name, self.calls, self.phase, self.reason = name, calls, phase, reason

    def start(self, step):
        self.calls.append((self.name, "start", step))

    def before_step(self, step):
        self.calls.append((self.name, "before", step.number))

    def reason_to_skip(self, step):
        self.calls.append((self.name, "reason", step.number))
        return self.reason

    def after_step(self, step):
        self.calls.append((self.name, "after", step.number))


class Clock(Observer):
    """Notes where training is."""

    def __init__(self, calls):
        self.calls = calls

    def enter(self, step, phase):
        self.calls.append(("enter", step, phase))

    def lap(self, part):
        self.calls.append(("lap", part))


def test_the_first_observer_is_called_last_before_a_step_and_first_after_it():
    calls = []
    both = Observers([Witness("a", calls), Witness("b", calls)])
    step = Step(5, last=False)
    both.start(5)
    both.before_step(step)
    both.reason_to_skip(step)
    both.after_step(step)
    assert [(name, what) for name, what, _ in calls] == [
        ("a", "start"), ("b", "start"), ("b", "before"), ("a", "before"),
        ("a", "reason"), ("b", "reason"), ("a", "after"), ("b", "after"),
    ]  # fmt: skip


def test_all_are_asked_for_a_reason_to_skip_and_the_first_one_counts():
    calls = []
    reasons = [None, "not finite", "too large"]
    observers = Observers([Witness(str(i), calls, reason=reason) for i, reason in enumerate(reasons)])
    assert observers.reason_to_skip(Step(0, last=False)) == "not finite"
    assert len(calls) == 3, "an observer that decides by history must see every gradient"
    assert Observers([Witness("a", calls)]).reason_to_skip(Step(0, last=False)) is None


def test_phases_are_entered_and_timed_in_the_order_of_a_step():
    calls = []
    observers = Observers([Clock(calls), Witness("a", [], phase="report"), Witness("b", [])])
    step = Step(7, last=False)
    observers.start(7)
    observers.before_step(step)
    observers.after_step(step)
    assert calls == [
        ("enter", 7, "start"), ("enter", 7, "data"), ("enter", 7, "step"), ("lap", "data"),
        ("enter", 7, "report"), ("lap", "report"), ("enter", 8, "data"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "last", "every", "due"),
    [(4, False, 5, True), (5, False, 5, False), (5, True, 5, True), (4, False, 0, False), (4, True, 0, True)],
)
def test_what_is_due_comes_after_every_so_many_steps_and_after_the_last(number, last, every, due):
    assert Step(number, last).due(every) is due
