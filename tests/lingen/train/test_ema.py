"""Averages of weights: how they follow, and how a model wears them for a while."""

import pytest
import torch

from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.ranks import local
from lingen.train.sharding import shard


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


def test_a_sharded_model_computes_with_its_own_weights_again_after_the_block(process_group):
    """FSDP2 keeps the root's gathered weights when no backward pass follows: the average's, in a validation."""
    config = DenoiserConfig(
        width=32, depth=1, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6), position_sizes=(4, 4, 4)
    )
    latent, t = torch.randn(1, config.latent_channels, 2, 4, 4), torch.tensor([0.5])
    text = [(torch.randn(1, 3, dim), torch.ones(1, 3, dtype=torch.bool)) for dim in config.text_dims]
    torch.manual_seed(0)
    plain = Denoiser(config)
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model = Denoiser(config)
    model.load_state_dict(plain.state_dict())
    shard(model, FitConfig())
    ema = EMA(model, 0.9)
    for weights in ema.weights.values():
        local(weights).zero_()
    with torch.no_grad():
        for _ in range(2):  # the samples of a step follow its validation
            with ema.applied_to(model):
                assert model(latent, t, text).eq(0).all()
        torch.testing.assert_close(model(latent, t, text), plain(latent, t, text))
