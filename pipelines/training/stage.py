"""One stage of a recipe under Ray Train: checked in the driver, trained by the workers, published by the driver."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch

from lingen.data.selection import licences
from lingen.data.shard_index import first_captions
from lingen.io.manifest import OutputFolder, file_digest, read_manifest, to_plain
from lingen.io.progress import Progress
from lingen.model.denoiser import Denoiser
from lingen.model.pretrained import model_folder, read_about
from lingen.text.encoders import parse_text_encoders
from lingen.train.export import describe
from pipelines.cli import Preempted
from pipelines.ray_train import TRACKING, absolute_paths, run_workers
from pipelines.tracking import catch_up, dataset, experiment_name, flatten, git_state, store_beside
from pipelines.training.config import TrainConfig
from pipelines.training.prepare import PreparedStage, prepare, tae_of_shards
from pipelines.training.prompts import PROMPTS, write_prompts
from pipelines.training.reporting import first_and_last, first_start
from pipelines.training.worker import WorkerTask, train_worker

log = logging.getLogger(__name__)


def train(config: TrainConfig) -> dict[str, Any]:
    """Train the stage to its end; a finished folder of the same settings is left unchanged.

    Returns:
        The manifest of the output folder.

    Raises:
        ValueError: bad configuration, before any work starts.
        RuntimeError: training failed more often than workers.max_failures allows.
        Preempted: asked to stop (SIGTERM, or a file named `stop` in the output folder), and saved.
    """
    started = time.time()
    config = absolute_paths(config)
    prepared = prepare(config)
    folder = OutputFolder.open(config.output, "train", prepared.content, prepared.inputs, overwrite=config.overwrite)
    if manifest := read_manifest(folder.path):
        catch_up(folder.path / TRACKING, config.mlflow or store_beside(config.output))
        log.info("%s is finished; nothing to do", folder.path)
        return manifest

    task = _task(prepared, folder)
    progress = Progress(prepared.stage.name, config.fit.steps, unit="steps")
    if not run_workers(train_worker, task, config.workers, folder, progress, config.fit.hang_timeout):
        raise Preempted(f"training is saved in {config.output}/checkpoints; the same command continues from there")
    model = folder.path / "model"
    return folder.publish(
        {
            "model": file_digest(model / "ema.safetensors"),
            "steps": config.fit.steps,
            "loss": first_and_last(folder.path),
            "positions": {"before": _positions_of(config.init), "after": prepared.architecture.position_sizes},
            "checkpoint": str(Path("checkpoints") / f"step_{config.fit.steps:08d}"),
        },
        started,
    )


def _task(prepared: PreparedStage, folder: OutputFolder) -> WorkerTask:
    """The workers' task; also writes the embedded sample prompts to the output folder."""
    config, stage, shards = prepared.config, prepared.stage, prepared.shards
    text = list(parse_text_encoders(prepared.encoded["config"]["text"]).values())
    prompts = config.prompts or first_captions(shards)
    write_prompts(folder.path / PROMPTS, prompts, text, shards)
    name, data_digest = config.shards.name, prepared.inputs["shards"]
    data = dataset(name, str(config.shards), data_digest, "training", {"samples": len(prepared.train)})
    return WorkerTask(
        config=config,
        architecture=prepared.architecture,
        about=describe(stage.name, stage.preset, shards, text, prompts),
        tae=tae_of_shards(shards).resolve(),
        clips=prepared.clips,
        first_start=first_start(folder.path / TRACKING),
        run={
            "experiment": experiment_name(f"lingen-{prepared.recipe.name}"),
            "name": stage.name,
            "uri": config.mlflow or store_beside(config.output),
            "params": _params(prepared),
            "tags": {"stage": stage.name, "recipe": prepared.recipe.name, **git_state()},
            "datasets": [data],
            "parent": os.environ.get("LINGEN_PARENT_RUN"),
        },
    )


def _positions_of(init: Path | None) -> list[int] | None:
    """Sizes of the position tables that a stage starts from; None for random weights."""
    return read_about(model_folder(init))["model"]["position_sizes"] if init else None


def _params(prepared: PreparedStage) -> dict[str, Any]:
    """The run's parameters in MLflow."""
    config, train = prepared.config, prepared.train
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Denoiser(prepared.architecture).parameters())
    return flatten(
        {
            "recipe": prepared.recipe.name,
            "preset": prepared.stage.preset,
            "parameters": parameters,
            "fit": to_plain(config.fit),
            "data": {name: len(bucket) for name, bucket in train.buckets.items()},
            "tae": train.format.tae_digest,
            "text": ", ".join(train.text_names),
            "licences": ", ".join(f"{name}: {count}" for name, count in licences(train).items()),
            "init": str(config.init),
            "workers": config.workers.count,
        }
    )
