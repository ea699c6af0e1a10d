"""Reports: when they are due, and what is in them."""

from lingen.train.observers.observer import Step
from lingen.train.observers.reports import Reports


class Counter:
    """Metrics that count the steps since the last report."""

    steps = 0

    def add(self, step):
        self.steps += 1

    def reduce(self):
        steps, self.steps = self.steps, 0
        return {"steps": steps}


def reported(every, steps, measured=()):
    """{step: metrics} of a run in which other observers measure something after some of the steps."""
    found = {}
    reports = Reports(every, Counter(), lambda step, metrics: found.update({step: metrics}))
    for number in range(steps):
        metrics = {"val": 1.0} if number + 1 in measured else {}
        reports.after_step(Step(number, last=number + 1 == steps, metrics=metrics))
    return found


def test_every_step_is_in_one_report_those_before_the_end_too():
    assert reported(every=3, steps=8) == {3: {"steps": 3}, 6: {"steps": 3}, 8: {"steps": 2}}


def test_what_others_measured_is_reported_at_once_and_leaves_the_sums_alone():
    assert reported(every=3, steps=6, measured=(2, 3)) == {
        2: {"val": 1.0},
        3: {"steps": 3, "val": 1.0},
        6: {"steps": 3},
    }
