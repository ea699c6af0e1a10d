"""Learning rates: pure functions of the step."""

import pytest

from lingen.train.config import SCHEDULES, FitConfig
from lingen.train.lr_schedule import learning_rate


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_warms_up_to_its_peak_and_ends_where_it_says(schedule):
    config = FitConfig(steps=101, warmup=10, lr=1.0, lr_end=0.1, schedule=schedule)
    rates = [learning_rate(config, s) for s in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    ends = {"constant": (1.0, 1.0), "linear": (0.55, 0.1), "cosine": (0.55, 0.1)}[schedule]
    assert (rates[55], rates[100]) == pytest.approx(ends)
    early = {"constant": 1.0, "linear": 0.9, "cosine": 0.97286}[schedule]
    assert rates[20] == pytest.approx(early, abs=1e-4)
