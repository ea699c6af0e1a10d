"""Weights, gradients and optimizer state spread over ranks (FSDP2)."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from lingen.model.denoiser import Denoiser
from lingen.train.config import FitConfig

log = logging.getLogger(__name__)


def mesh_shape(world: int, shard_group: int) -> tuple[int, ...]:
    """(ranks,) that share one copy, or (groups, ranks of a group): sharded along the last axis, copied along the first.

    When the group does not divide the ranks (a node was lost), all share one copy: slower, but it always fits.
    """
    if not shard_group or world % shard_group:
        if shard_group and dist.get_rank() == 0:
            log.warning("fit.shard_group: %d does not divide %d workers; all share one copy", shard_group, world)
        return (world,)
    return world // shard_group, shard_group


def shard(model: Denoiser, config: FitConfig) -> None:
    """Shard in place over all ranks or groups of them, layer by layer.

    Activation checkpointing and compilation, where configured, are per layer too.
    """
    from torch.distributed._composable import checkpoint  # keeps parameter names, unlike the wrapper module
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for layer in model.layers:
        if config.activation_checkpointing:
            checkpoint(layer)
        if config.compile:
            layer.compile()
    policy = MixedPrecisionPolicy()
    if config.precision == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    shape = mesh_shape(dist.get_world_size(), config.shard_group)
    names = ("copies", "shards")[-len(shape) :]
    mesh = init_device_mesh(next(model.parameters()).device.type, shape, mesh_dim_names=names)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
