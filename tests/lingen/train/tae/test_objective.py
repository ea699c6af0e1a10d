"""The TAE's loss: its parts and their weights, and who learns from which."""

import pytest
import torch

from lingen.tae.config import TAE_PRESETS
from lingen.tae.tae import TAE
from lingen.train.tae.config import TAEFitConfig
from lingen.train.tae.objective import Objective

VIDEO = torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def objective(**changes):
    torch.manual_seed(0)
    config = TAEFitConfig(preset="tae_tiny", crop=32, outlier_weight=0.5, **changes)
    return Objective(TAE(TAE_PRESETS["tae_tiny"]), config)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    loss, parts = objective(adversarial_weight=0.1, adversarial_start=3)(VIDEO, 3)
    assert set(parts) == {"l1", "outliers", "adversarial", "discriminator"}
    expected = parts["l1"] + 0.5 * parts["outliers"] + 0.1 * parts["adversarial"] + parts["discriminator"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not any(part.requires_grad for part in parts.values())


def gradients(module):
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def test_before_its_start_the_discriminator_learns_nothing_but_has_gradients():
    with_one, without = objective(adversarial_weight=0.1, adversarial_start=3), objective()
    loss, parts = with_one(VIDEO, 2)
    assert set(parts) == {"l1", "outliers"}
    loss.backward()
    assert gradients(with_one.discriminator).eq(0).all()
    without(VIDEO, 2)[0].backward()
    torch.testing.assert_close(gradients(with_one.tae), gradients(without.tae), rtol=0, atol=0)


def test_the_discriminators_own_loss_does_not_reach_the_tae():
    one = objective(adversarial_weight=1e-9)
    one(VIDEO, 0)[0].backward()
    plain = objective()
    plain(VIDEO, 0)[0].backward()
    torch.testing.assert_close(gradients(one.tae), gradients(plain.tae), rtol=1e-3, atol=1e-7)
    assert gradients(one.discriminator).abs().max() > 0


def test_checkpoints_hold_the_discriminator_where_there_is_one():
    assert objective().trained is not None
    names = {name.partition(".")[0] for name in objective(adversarial_weight=0.1).trained.state_dict()}
    assert names == {"tae", "discriminator"}
