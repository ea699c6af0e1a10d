"""The training loop: gradients of the mean over the batch, however it is cut; what observers see and may refuse."""

import types

import pytest
import torch

from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.loop import Trainer
from lingen.train.lr_schedule import learning_rate
from lingen.train.observers.observer import Observer, Observers
from lingen.train.observers.preemption import Notice

pytestmark = pytest.mark.usefixtures("process_group")


class Model(torch.nn.Module):
    """A velocity that depends on place, time and text."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))

    def forward(self, x, t, text):
        words = torch.stack([(embedding * mask[..., None]).sum((1, 2)) for embedding, mask in text]).sum(0)
        scale = self.weight[0] + self.weight[1] * t + self.weight[2] * words
        return scale.view(-1, 1, 1, 1, 1) * x


class Witness(Observer):
    """Keeps the steps; refuses some gradients, stops after one."""

    def __init__(self, refuse=(), stop_after=None):
        self.steps, self.laps, self.refuse, self.stop_after = [], [], refuse, stop_after
        self.started = None

    def start(self, step):
        self.started = step

    def reason_to_skip(self, step):
        return "refused" if step.number in self.refuse else None

    def after_step(self, step):
        self.steps.append(step)
        if step.number == self.stop_after:
            step.notice = Notice.STOP

    def lap(self, part):
        self.laps.append(part)


def batch(number, count=6):
    generator = torch.Generator().manual_seed(number)
    return types.SimpleNamespace(
        step=number,
        latent_BCTHW=torch.randn(count, 2, 1, 3, 3, generator=generator),
        text=[(torch.randn(count, 2, 1, generator=generator), torch.ones(count, 2, dtype=torch.bool))],
        seeds=[100 * number + i for i in range(count)],
    )


def trainer(witness, **settings):
    model = Model()
    config = FitConfig(**{"steps": 4, "batch_size": 6, "lr": 1e-2, "warmup": 0, "grad_clip": 1e9} | settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return Trainer(config, model, EMA(model, 0.9), optimizer, Observers([witness]), torch.device("cpu"))


def test_micro_batches_make_the_same_gradient_and_the_same_losses():
    found = []
    for size in (0, 1, 4):
        witness = Witness()
        one = trainer(witness, micro_batch=size)
        one.run([batch(0)], 0)
        found.append((one.model.weight.detach(), witness.steps[0].loss_B, witness.steps[0].t_B))
        laps = {0: 1, 1: 6, 4: 2}[size] * ["prepare", "forward", "backward"]
        assert witness.laps == ["data", *laps, "optimizer"]
    for weight, loss_B, t_B in found[1:]:
        torch.testing.assert_close(weight, found[0][0])
        torch.testing.assert_close(loss_B, found[0][1])
        assert torch.equal(t_B, found[0][2])


def test_a_step_is_one_update_at_its_learning_rate_along_the_mean_gradient():
    witness = Witness()
    one = trainer(witness)
    before = one.model.weight.detach().clone()
    one.accumulate_gradients(step := types.SimpleNamespace(batch=batch(1)))
    gradient = one.model.weight.grad.clone()
    one.optimizer.zero_grad()
    one.run([batch(1)], 1)
    (seen,) = witness.steps
    assert witness.started == 1
    assert seen.lr == learning_rate(one.config, 1)
    torch.testing.assert_close(one.model.weight.detach(), before - seen.lr * gradient)
    assert seen.grad_norm == pytest.approx(gradient.norm().item())
    assert torch.equal(seen.loss_B, step.loss_B)
    assert one.ema.updates == 1


def test_a_refused_gradient_changes_neither_weights_nor_average_and_leaves_nothing_behind():
    witness, plain = Witness(refuse={1}), Witness()
    one, other = trainer(witness), trainer(plain)
    one.run([batch(0), batch(1), batch(2)], 0)
    other.run([batch(0), batch(2)], 0)
    assert [s.skip_reason for s in witness.steps] == [None, "refused", None]
    assert torch.equal(one.model.weight, other.model.weight)
    assert torch.equal(one.ema.weights["weight"], other.ema.weights["weight"])


def test_it_stops_after_the_step_that_an_observer_names_but_not_at_the_last():
    witness = Witness(stop_after=1)
    assert not trainer(witness).run(map(batch, range(4)), 0)
    assert [(s.number, s.last) for s in witness.steps] == [(0, False), (1, False)]
    assert trainer(Witness(stop_after=3)).run(map(batch, range(4)), 0)
