"""A stage's inputs, checked in the driver before any work: shards, reviewed clips, architecture, TAE."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from data_prep.curate.quality import decisions
from lingen.data.index_file import samples_digest
from lingen.data.selection import select
from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import digest, file_digest, require_manifest
from lingen.model.denoiser import DenoiserConfig
from lingen.model.presets import PRESETS
from lingen.model.pretrained import model_folder, read_about
from lingen.tae.pretrained import load_tae
from lingen.train.export import check_same_latents
from lingen.train.hand_over import grown, position_scale
from lingen.train.stage import batch_plan
from pipelines.recipes import Recipe, TrainStage, find_stage
from pipelines.training.config import TrainConfig

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedStage:
    """A stage whose configuration has been checked."""

    config: TrainConfig
    recipe: Recipe
    stage: TrainStage
    encoded: dict[str, Any]
    """manifest of the encoded folder"""
    shards: ShardIndex
    """the stage's buckets"""
    train: ShardIndex
    """their samples that are trained on"""
    clips: list[str] | None
    """clip_ids of the reviewed set; None: all"""
    architecture: DenoiserConfig
    content: dict[str, Any]
    """the settings that decide the result, for the output's key"""
    inputs: dict[str, Any]
    """digests of what the stage reads, for the output's key"""


def prepare(config: TrainConfig) -> PreparedStage:
    """Check a stage's configuration against its shards and the previous stage.

    Raises:
        ValueError: something does not fit; the message names the flag and the fix.
    """
    recipe, stage = find_stage(config.stage)
    encoded = require_manifest(config.shards, "encode", "--shards")
    shards = select_shards(config.shards, stage)
    if config.fit.batch_size < config.workers.count:
        raise ValueError(
            f"--workers.count: {config.workers.count} workers cannot share a batch of {config.fit.batch_size}"
        )
    clips = reviewed_clips(stage, config.quality)
    train, held_out = select(shards, config.fit.held_out, clips)
    batch_plan(config.fit, train)  # fails here rather than in a worker
    log.info("%s: %d samples to train on, %d held out", stage.name, len(train), len(held_out) if held_out else 0)
    if config.fit.shard_group and config.workers.count % config.fit.shard_group:
        raise ValueError(f"--fit.shard-group: {config.fit.shard_group} does not divide {config.workers.count} workers")
    inputs = {"shards": samples_digest(encoded), "init": None, "quality": clips and digest(clips)}
    if config.init:
        inputs["init"] = file_digest(model_folder(config.init, "--init") / "ema.safetensors")
    return PreparedStage(
        config=config,
        recipe=recipe,
        stage=stage,
        encoded=encoded,
        shards=shards,
        train=train,
        clips=clips,
        architecture=stage_architecture(stage, shards, config.init),
        content={
            "stage": stage.name,
            "preset": stage.preset,
            "fit": config.fit.content(),
            "prompts": config.prompts,
        },
        inputs=inputs,
    )


def select_shards(folder: Path, stage: TrainStage) -> ShardIndex:
    """The buckets that a stage trains on.

    Raises:
        ValueError: there are none; the message names --shards.
    """
    try:
        shards = ShardIndex.open(folder)
        if stage.frames == 1:
            return shards.select(media="image", resolution=stage.resolution)
        shards.select(media="video", resolution=stage.resolution, frames=stage.frames)  # images alone do not suffice
        return shards.select(resolution=stage.resolution, frames=stage.frames)
    except ValueError as error:
        raise ValueError(f"--shards: {error}") from error


def reviewed_clips(stage: TrainStage, path: Path | None) -> list[str] | None:
    """The clip_ids that a reviewed list keeps, sorted; None without a list.

    Raises:
        ValueError: the stage is quality tuning and there is no list, or the list keeps nothing.
    """
    if path is None:
        if stage.quality:
            raise ValueError(f"--quality: stage {stage.name} trains on a reviewed set; give its quality.csv")
        return None
    if not path.is_file():
        raise ValueError(f"--quality: {path} is not a file; make one with jobs/curate.py --quality.count")
    clips = sorted(clip for clip, stays in decisions(path, "--quality").items() if stays)
    if not clips:
        raise ValueError(f"--quality: {path} keeps no clip")
    return clips


def stage_architecture(stage: TrainStage, shards: ShardIndex, init: Path | None) -> DenoiserConfig:
    """The preset for the shards' text encoders, with position tables as large as this stage needs; they never shrink.

    Args:
        init: output folder of the previous stage, with the smallest sizes of the position tables.

    Raises:
        ValueError: the shards' latents do not fit the preset; or `init` has another architecture, or was trained on
            latents of another TAE (the message names both).
    """
    preset = dataclasses.replace(PRESETS[stage.preset], text_dims=shards.text_dims)
    for bucket in shards.buckets.values():
        if bucket.latent_shape[0] != preset.latent_channels:
            raise ValueError(
                f"--shards: their latents have {bucket.latent_shape[0]} channels, preset {stage.preset} takes "
                f"{preset.latent_channels} (latent_channels); encode with a TAE of {preset.latent_channels} channels"
            )
    sizes, scale = preset.position_sizes, 1.0
    if init is not None:
        about = read_about(model_folder(init, "--init"))
        before = DenoiserConfig.from_dict(about["model"])
        if dataclasses.replace(before, position_sizes=sizes) != preset:
            raise ValueError(
                f"--init: {init} holds a {about['preset']} model, stage {stage.name} trains {stage.preset}; "
                "choose a checkpoint of the same preset and text encoders"
            )
        check_same_latents(about, shards, init)
        sizes, scale = before.position_sizes, position_scale(about, shards)
    try:
        return grown(dataclasses.replace(preset, position_sizes=sizes), shards, scale)
    except ValueError as error:
        raise ValueError(f"--shards: preset {stage.preset} does not fit them: {error}") from error


def tae_of_shards(shards: ShardIndex) -> Path:
    """The folder of the TAE that the shards were encoded with; jobs/encode.py puts a copy beside them.

    Raises:
        ValueError: it is missing, or has been replaced by another one.
    """
    folder = Path(shards.folder) / "tae"
    if load_tae(folder).digest != shards.format.tae_digest:
        raise ValueError(f"--shards: the TAE in {folder} is not the one that made these latents; encode again")
    return folder
