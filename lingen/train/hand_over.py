"""The hand-over of weights from one stage to the next, with position tables that grow with the stage's videos."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from lingen.data.shard_index import ShardIndex
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.pretrained import read_weights
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.sharding import shard


def grown(architecture: DenoiserConfig, shards: ShardIndex) -> DenoiserConfig:
    """The architecture with position tables as large as these shards need; they never shrink.

    Raises:
        ValueError: the patch does not divide the latents.
    """
    grids = [architecture.token_grid(bucket.latent_shape[1:]) for bucket in shards.buckets.values()]
    T, H, W = (max(axis) for axis in zip(architecture.position_sizes, *grids))
    return dataclasses.replace(architecture, position_sizes=(T, H, W))


def build_model(
    config: FitConfig, architecture: DenoiserConfig, init: Path | None, device: torch.device
) -> tuple[Denoiser, EMA]:
    """The sharded model and its average.

    Args:
        init: an exported model whose weights are the start, its position tables resized; None: seeded random weights.
    """
    torch.manual_seed(config.seed)
    model = Denoiser(architecture)
    averaged = None
    if init is not None:
        _load_resized(model, init, "raw")
        averaged = Denoiser(architecture)
        _load_resized(averaged, init, "ema")
    shard(model.to(device), config)
    uniform_after = config.steps - config.average_last if config.average_last else None
    ema = EMA(model, config.ema_decay, uniform_after=uniform_after)
    if averaged is not None:
        shard(averaged.to(device), config)
        ema.weights = {name: p.detach().clone() for name, p in averaged.named_parameters()}
    return model, ema


def _load_resized(model: Denoiser, init: Path, weights: str) -> None:
    """Load an earlier stage's weights, with position tables stretched to this stage's size."""
    before, state = read_weights(init, weights)
    earlier = Denoiser(before)
    earlier.load_state_dict(state)
    if earlier.config.position_sizes != model.config.position_sizes:
        T, H, W = (n * p for n, p in zip(model.config.position_sizes, model.config.patch))
        earlier.resize_positions((T, H, W))
    model.load_state_dict(earlier.state_dict())
