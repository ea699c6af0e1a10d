"""The TAE's loop: a step's update, what keeps one from the weights, and the learning rate."""

import pytest
import torch

from lingen.tae.config import TAE_PRESETS
from lingen.tae.tae import TAE
from lingen.train.ema import EMA
from lingen.train.observers.observer import Observer, Observers
from lingen.train.observers.preemption import Notice
from lingen.train.tae.config import TAEFitConfig
from lingen.train.tae.crops import Crops
from lingen.train.tae.objective import Objective
from lingen.train.tae.trainer import TAETrainer, learning_rate

pytestmark = pytest.mark.usefixtures("process_group")
CONFIG = TAEFitConfig(preset="tae_tiny", steps=4, batch_size=1, crop=32, frames=8, lr=1e-3, warmup=2)


class Witness(Observer):
    def __init__(self, stop_after=None):
        self.steps, self.stop_after = [], stop_after

    def after_step(self, step):
        self.steps.append(step)
        if step.number == self.stop_after:
            step.notice = Notice.STOP


@pytest.fixture
def make_trainer(pixels):
    def make(witness):
        torch.manual_seed(0)
        objective = Objective(TAE(TAE_PRESETS["tae_tiny"]), CONFIG)
        optimizer = torch.optim.AdamW(objective.parameters(), lr=1.0)
        ema = EMA(objective.tae, 0.9)
        crops = Crops(CONFIG, pixels.videos, [])
        return TAETrainer(CONFIG, objective, ema, optimizer, crops, Observers([witness]), torch.device("cpu"))

    return make


def weights_of(trainer):
    return torch.cat([p.detach().flatten().clone() for p in trainer.objective.tae.parameters()])


def test_it_goes_to_the_end_from_any_step_or_to_where_it_is_stopped(make_trainer):
    witness = Witness()
    assert make_trainer(witness).run(2)
    assert [(s.number, s.last, s.skip_reason) for s in witness.steps] == [(2, False, None), (3, True, None)]
    assert [s.lr for s in witness.steps] == [learning_rate(CONFIG, 2), learning_rate(CONFIG, 3)]
    assert all(s.seconds > 0 and s.grad_norm > 0 and "l1" in s.losses for s in witness.steps)
    stopped = Witness(stop_after=1)
    assert not make_trainer(stopped).run(0)
    assert [s.number for s in stopped.steps] == [0, 1]
    assert make_trainer(Witness(stop_after=3)).run(3), "a request at the last step is too late"


def test_a_gradient_that_is_not_finite_changes_nothing(make_trainer):
    witness = Witness()
    trainer = make_trainer(witness)
    before, updates = weights_of(trainer), trainer.ema.updates
    forward = trainer.parallel.forward
    trainer.parallel.forward = lambda video, step: (forward(video, step)[0] * float("nan"), {"l1": torch.tensor(1.0)})
    trainer.run(3)
    assert witness.steps[0].skip_reason == "the gradient is not finite"
    assert torch.equal(weights_of(trainer), before)
    assert trainer.ema.updates == updates
    assert all(p.grad is None for p in trainer.objective.parameters()), "the next step starts without it"


def test_the_learning_rate_warms_up_and_falls_to_zero_along_half_a_cosine():
    config = TAEFitConfig(steps=100, lr=1.0, warmup=10)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.5)
    assert max(rates) == rates[9]
    assert rates[99] < 1e-3
