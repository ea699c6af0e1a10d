"""How ranks share the copies of the weights."""

import logging

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.train.config import FitConfig
from lingen.train.sharding import mesh_shape, shard

TINY = DenoiserConfig(
    width=32, depth=2, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6), position_sizes=(4, 4, 4)
)


@pytest.mark.parametrize(("world", "group", "shape"), [(8, 0, (8,)), (8, 4, (2, 4)), (4, 4, (1, 4)), (6, 4, (6,))])
def test_groups_share_a_copy_where_they_divide_the_ranks(process_group, world, group, shape, caplog):
    with caplog.at_level(logging.WARNING):
        assert mesh_shape(world, group) == shape
    assert ("fit.shard_group: 4 does not divide 6 workers" in caplog.text) == (world == 6)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_layers_are_sharded_compute_in_the_configured_precision_and_keep_their_names(process_group, precision, dtype):
    model = Denoiser(TINY)
    names = [name for name, _ in model.named_parameters()]
    shard(model, FitConfig(precision=precision, activation_checkpointing=True))
    assert [name for name, _ in model.named_parameters()] == names
    assert all(isinstance(p, DTensor) and p.dtype == torch.float32 for p in model.parameters())
    assert all(isinstance(layer, FSDPModule) for layer in model.layers)
    seen, linear = [], next(m for m in model.layers[0].modules() if isinstance(m, torch.nn.Linear))
    linear.register_forward_hook(lambda module, args, output: seen.append(module.weight.dtype))
    latent = torch.zeros(1, TINY.latent_channels, 2, 4, 4)
    text = [(torch.zeros(1, 3, dim), torch.ones(1, 3, dtype=torch.bool)) for dim in TINY.text_dims]
    model(latent, torch.tensor([0.5]), text)
    assert seen == [dtype]
