"""Weights, gradients and optimizer state spread over ranks (FSDP2)."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from lingen.model.denoiser import Denoiser, Layer
from lingen.model.mamba2 import BidirectionalMamba2
from lingen.train.config import FitConfig
from lingen.train.ranks import unsharded

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


COMPILER = "inductor"
"""torch.compile's backend"""

FLOAT32 = ("A_log", "D", "dt_bias")
"""Parameters of the scan that bfloat16 would round before the float32 arithmetic that they are for: a few hundred
numbers a layer, which every rank keeps whole."""

TEXT_MULTIPLE = 128
"""Compiled layers see text of these lengths alone."""


def shard(model: Denoiser, config: FitConfig, device: torch.device | None = None) -> None:
    """Shard in place over all ranks or groups of them, layer by layer.

    Activation checkpointing and compilation, where configured, are per layer too. With bfloat16 the time stays float32,
    and so do the scan's own parameters: these are not sharded (see `average_whole_gradients`).

    Args:
        device: where the model is going to be, if it is on "meta" now; None: where its parameters are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for module in model.modules():
        if isinstance(module, (Layer, BidirectionalMamba2)):
            module.recompute = config.activation_checkpointing
    policy, whole = MixedPrecisionPolicy(), set()
    if config.precision == "bfloat16":
        # The model casts its own inputs; FSDP would cast the time as well (0.9901 -> 0.98828).
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        whole = {p for name, p in model.named_parameters() if name.rpartition(".")[2] in FLOAT32}
    shape = mesh_shape(dist.get_world_size(), config.shard_group)
    names = ("copies", "shards")[-len(shape) :]
    device = device or next(model.parameters()).device
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    if config.compile:
        compile_layers(model)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, ignored_params=whole)
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=whole)


def compile_layers(model: Denoiser) -> None:
    """Compile the layers: a program for each place in the cycle of scans and each shape, and nothing left to Python.

    What is compiled is `forward` alone, since FSDP's hooks around it cannot be. A graph break raises, and so does one
    program too many.
    """
    import torch._dynamo

    # 4 places, with and without gradients: 64 shapes and text lengths.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 512)
    torch._dynamo.config.accumulated_recompile_limit = max(torch._dynamo.config.accumulated_recompile_limit, 1024)
    model.text.multiple = TEXT_MULTIPLE
    for layer in model.layers:
        layer.forward = torch.compile(layer.forward, backend=COMPILER, fullgraph=True, dynamic=False)


def average_whole_gradients(model: torch.nn.Module) -> None:
    """Average over all ranks the gradients of parameters that are not sharded; FSDP does so with the others."""
    gradients = [p.grad for p in unsharded(model.parameters()) if p.grad is not None]
    if gradients:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(part.view_as(gradient))
