"""The start of a stage: random weights, or those of the stage before with position tables for this one's videos.

The model is built without weights and sharded first. Then every rank copies the rows that it holds, of one tensor after
the other: no process ever holds the whole model, not even at 4B parameters on eight GPUs of one node.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lingen.data.shard_index import ShardIndex
from lingen.model.denoiser import Denoiser, DenoiserConfig, initial_weights
from lingen.model.positions import stretched
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.ranks import Rows, copy_own_rows
from lingen.train.sharding import shard

POSITIONS = tuple(f"positions.tables.{axis}" for axis in range(3))


def position_scale(about: Mapping[str, Any], shards: ShardIndex) -> float:
    """How many tokens of these shards cover one of an earlier model's, along H and W: the ratio of their resolutions.

    Args:
        about: config.json of the earlier model.
    """
    resolution = max(bucket.format.resolution for bucket in shards.buckets.values())
    return resolution / about.get("resolution", resolution)


def grown(architecture: DenoiserConfig, shards: ShardIndex, scale: float = 1.0) -> DenoiserConfig:
    """The architecture with position tables as large as these shards need; they never shrink.

    Args:
        architecture: with the sizes of the tables until now.
        scale: `position_scale` of the model that they come from.

    Raises:
        ValueError: the patch does not divide the latents.
    """
    grids = [architecture.token_grid(bucket.latent_shape[1:]) for bucket in shards.buckets.values()]
    time, *picture = architecture.position_sizes
    T, H, W = (max(axis) for axis in zip((time, *(math.ceil(n * max(scale, 1.0)) for n in picture)), *grids))
    return dataclasses.replace(architecture, position_sizes=(T, H, W))


def build_model(
    config: FitConfig, architecture: DenoiserConfig, init: Path | None, device: torch.device, scale: float = 1.0
) -> tuple[Denoiser, EMA]:
    """The sharded model and its average.

    Args:
        init: an exported model whose weights are the start, its position tables stretched; None: seeded random weights.
        scale: `position_scale` of `init`.
    """
    with torch.device("meta"):
        model = Denoiser(architecture)
    shard(model, config, device)
    model.to_empty(device=device)
    torch.manual_seed(config.seed)
    weights = dict(model.named_parameters())
    _load(weights, initial_weights(architecture) if init is None else _earlier(init, "raw", architecture, scale))
    uniform_after = config.steps - config.average_last if config.average_last else None
    ema = EMA(model, config.ema_decay, uniform_after=uniform_after)
    if init is not None:
        _load(ema.weights, _earlier(init, "ema", architecture, scale))
    return model, ema


def _load(targets: Mapping[str, Tensor], sources: Iterable[tuple[str, Rows]]) -> None:
    """Copy this rank's rows of every tensor."""
    missing = set(targets)
    for name, source in sources:
        copy_own_rows(targets[name], source)
        missing.remove(name)
    assert not missing, missing


def _earlier(init: Path, weights: str, architecture: DenoiserConfig, scale: float) -> Iterator[tuple[str, Rows]]:
    """Yield an earlier stage's weights by name, on disk, but for the position tables: those are of this stage's sizes.

    Raises:
        ValueError: they are of another architecture.
    """
    from safetensors import safe_open

    with torch.device("meta"):
        shapes = {name: list(p.shape) for name, p in Denoiser(architecture).named_parameters()}
    with safe_open(init / f"{weights}.safetensors", "pt") as file:
        tables = [file.get_tensor(name) for name in POSITIONS]
        sizes = architecture.position_sizes
        positions = dict(zip(POSITIONS, stretched(tables, sizes, scale)))
        if shapes.keys() != set(file.keys()):
            raise ValueError(f"--init: the weights in {init} are of another architecture: they have other names")
        for name, shape in shapes.items():
            found: Any = positions[name] if name in positions else file.get_slice(name)
            has = list(found.shape) if name in positions else found.get_shape()
            if has != shape:
                raise ValueError(
                    f"--init: the weights in {init} are of another architecture: {name} is {has}, not {shape}"
                )
            yield name, found
