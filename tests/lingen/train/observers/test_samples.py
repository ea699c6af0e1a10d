"""Samples: drawn when they are due, with the averaged weights."""

import pytest
import torch

from lingen.train.ema import EMA
from lingen.train.observers.observer import Step
from lingen.train.observers.samples import Samples


@pytest.mark.parametrize(("every", "expected"), [(2, [2, 4, 5]), (0, [5])])
def test_samples_come_every_so_many_steps_and_at_the_end_from_the_average(every, expected):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 3.0)
    ema = EMA(model, 0.9)
    torch.nn.init.constant_(model.weight, 7.0)
    seen = []
    samples = Samples(every, model, ema, lambda step, model: seen.append((step, model.weight.item())))
    for number in range(5):
        samples.after_step(Step(number, last=number == 4))
        assert model.weight.item() == 7.0, "training goes on with its own weights"
    assert seen == [(step, 3.0) for step in expected]
