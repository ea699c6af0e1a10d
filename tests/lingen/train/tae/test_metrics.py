"""The metrics of the TAE's reports."""

import torch

from lingen.train.observers.observer import Step
from lingen.train.tae.metrics import TAEMetrics


def test_a_report_has_the_newest_steps_losses_and_the_mean_time_since_the_last_one():
    metrics, found = TAEMetrics(), []
    for number, seconds in enumerate((1.0, 3.0, 5.0)):
        step = Step(number, last=False, seconds=seconds, lr=0.1 * number, grad_norm=float(number))
        step.losses = {"l1": torch.tensor(10.0 - number)}
        metrics.add(step)
        if number:
            found.append(metrics.reduce())
    assert found == [
        {"l1": 9.0, "grad_norm": 1.0, "lr": 0.1, "step_s": 2.0},
        {"l1": 8.0, "grad_norm": 2.0, "lr": 0.2, "step_s": 5.0},
    ]
