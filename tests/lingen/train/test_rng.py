"""The state of the global generators, there and back."""

import random

import numpy as np
import pytest
import torch

from lingen.train.rng import rng_state, set_rng_state


def draw():
    return [random.gauss(0, 1), random.random(), *np.random.standard_normal(3), *torch.rand(3).tolist()]


@pytest.mark.parametrize("cached", [False, True], ids=["fresh", "a second Gaussian cached"])
def test_generators_continue_where_they_were(cached):
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    if cached:  # both keep the second of a pair for the next call
        random.gauss(0, 1), np.random.standard_normal()
    state = rng_state()
    expected = draw()
    assert draw() != expected
    set_rng_state(state)
    assert draw() == expected


def test_the_state_is_tensors_alone():
    """As checkpoints take it."""
    assert {type(value) for value in rng_state().values()} == {torch.Tensor}
