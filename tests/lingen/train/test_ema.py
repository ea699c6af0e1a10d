"""Averages of weights: how they follow, and how a model wears them for a while."""

import pytest
import torch

from lingen.train.ema import EMA


def follow(ema, model, values):
    """The averages after each update."""
    seen = []
    for value in values:
        torch.nn.init.constant_(model.weight, value)
        ema.update(model)
        seen.append(ema.weights["weight"].item())
    return seen


@pytest.fixture
def model():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 10.0)
    return model


def test_the_decay_grows_with_the_updates_up_to_its_limit(model):
    seen = follow(EMA(model, 0.25), model, [0.0] * 4)
    first, second, third = 2 / 11, 3 / 12, 0.25  # (1 + n) / (10 + n) is above 0.25 from n = 3 on
    assert seen == pytest.approx([10 * first, 10 * first * second, 10 * first * second * third, 10 * first * 0.25**3])


def test_averaging_turns_from_exponential_to_uniform(model):
    seen = follow(EMA(model, 0.5, uniform_after=3), model, [9.0, 8.0, 7.0, 1.0, 2.0, 6.0])
    assert seen[2] > 6
    assert seen[3:] == pytest.approx([1.0, 1.5, 3.0])


def test_a_model_has_its_own_weights_again_after_the_block_also_after_an_error(model):
    ema = EMA(model, 0.9)
    torch.nn.init.constant_(model.weight, 2.0)

    def fail_inside():
        with ema.applied_to(model):
            assert model.weight.item() == 10.0
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert model.weight.item() == 2.0
    assert ema.weights["weight"].item() == 10.0
