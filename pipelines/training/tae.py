"""Training the temporal autoencoder on curated clips: segments decoded once, then Ray Train, tracked in MLflow."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import time
from pathlib import Path
from typing import Any

from data_prep.encode.pixels import PixelConfig, PixelSegment, write_pixels
from data_prep.encode.segments import CLIPS, read_clips
from data_prep.media.errors import INTERNAL
from data_prep.ray_cluster import connect
from lingen.io.manifest import (
    OutputFolder,
    file_digest,
    read_json,
    read_manifest,
    require_manifest,
    to_plain,
    write_json,
)
from lingen.io.progress import Progress
from lingen.tae.pretrained import load_tae, save_tae
from lingen.train.observers.preemption import StopFile, clear_stop_file
from lingen.train.tae import TAEFitConfig, TAEHooks, fit_tae
from lingen.train.tae.crops import Segments
from pipelines.cli import Preempted
from pipelines.ray_train import TRACKING, TrainWorkers, absolute_paths, prepare_worker, run_workers
from pipelines.tracking import Run, catch_up, experiment_name, flatten, git_state, store_beside
from pipelines.training.reporting import train_tracked

log = logging.getLogger(__name__)

PIXELS = "pixels"
REPORT = "held_out.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTAEConfig:
    """Train the temporal autoencoder (TAE) on curated clips; the same command resumes it after an interruption."""

    curated: Path
    """output folder of jobs/curate.py"""
    output: Path
    """folder for the TAE; the same command resumes in it"""
    pixels: PixelConfig = dataclasses.field(default_factory=PixelConfig)
    """which segments are cut from the clips"""
    fit: TAEFitConfig = dataclasses.field(default_factory=TAEFitConfig)
    """how the TAE is trained"""
    workers: TrainWorkers = dataclasses.field(default_factory=TrainWorkers)
    """the training workers"""
    mlflow: str | None = None
    """MLflow tracking URI; default: MLFLOW_TRACKING_URI, else mlflow.db beside the output folder"""
    overwrite: bool = False
    """replace an output folder made with other settings"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TAEWorkerTask:
    """What the driver has settled for every worker; sent to each as a whole."""

    config: TrainTAEConfig
    segments: list[PixelSegment]
    run: dict[str, Any]
    """arguments of pipelines.tracking.Run"""


def train_tae(config: TrainTAEConfig) -> dict[str, Any]:
    """Train to the end; a finished folder of the same settings is left unchanged.

    Returns:
        The manifest of the output folder.

    Raises:
        ValueError: bad configuration, before any work starts.
        RuntimeError: training failed more often than workers.max_failures allows.
        Preempted: asked to stop (SIGTERM, or a file named `stop` in the output folder), and saved.
    """
    started = time.time()
    config = dataclasses.replace(absolute_paths(config), fit=absolute_paths(config.fit))
    folder = _open_output(config)
    if manifest := read_manifest(folder.path):
        catch_up(folder.path / TRACKING, config.mlflow or store_beside(config.output))
        log.info("%s is finished; nothing to do", folder.path)
        return manifest

    clear_stop_file(folder.path)  # run_workers does, but only after hours of decoding
    connect()
    segments, errors = write_pixels(read_clips(config.curated / CLIPS), folder.path / PIXELS, config.pixels)
    if not any(s.held_out for s in segments):
        log.warning("all clips come from one source: nothing can be held out, so there is no validation PSNR")
    task = _task(config, segments)
    progress = Progress(config.fit.preset, config.fit.steps, unit="steps")
    if not run_workers(train_tae_worker, task, config.workers, folder, progress):
        raise Preempted(f"training is saved in {config.output}/checkpoints; the same command continues from there")
    report = {k.removeprefix("held_out/"): round(v, 3) for k, v in read_json(folder.path / REPORT).items()}
    return folder.publish(
        {
            "tae": load_tae(folder.path).digest,
            "windows": len(segments),
            "unreadable": len(errors),
            "internal_errors": sum(row["reason"] == INTERNAL for row in errors),
            "held_out": report,
        },
        started,
    )


def train_tae_worker(task: TAEWorkerTask) -> bool:
    """Train the TAE on this worker. Returns whether it is finished (and was not asked to stop)."""
    prepare_worker(task.config.workers)
    return train_tracked(functools.partial(_train, task), task.config.output / TRACKING, task.run)


def _open_output(config: TrainTAEConfig) -> OutputFolder:
    """Check the configuration, and claim the output folder.

    Raises:
        ValueError: something does not fit; the message names the flag.
    """
    require_manifest(config.curated, "curate", "--curated")
    if config.fit.batch_size % config.workers.count:
        raise ValueError(
            f"--workers.count: {config.workers.count} does not divide the batch of {config.fit.batch_size} segments"
        )
    inputs = {"clips": file_digest(config.curated / CLIPS)}
    if config.fit.perceptual is not None:
        inputs["perceptual"] = file_digest(config.fit.perceptual)
    return OutputFolder.open(config.output, "train_tae", _content(config), inputs, overwrite=config.overwrite)


def _content(config: TrainTAEConfig) -> dict[str, Any]:
    """The settings that decide the result, for the output's key."""
    return {"pixels": config.pixels.content(), "fit": to_plain(config.fit)}


def _task(config: TrainTAEConfig, segments: list[PixelSegment]) -> TAEWorkerTask:
    counts = {"windows": len(segments), "held_out": sum(s.held_out for s in segments)}
    return TAEWorkerTask(
        config=config,
        segments=segments,
        run={
            "experiment": experiment_name("lingen-tae"),
            "name": config.fit.preset,
            "uri": config.mlflow or store_beside(config.output),
            "params": flatten(_content(config) | counts),
            "tags": {"stage": "train_tae", **git_state()},
            "parent": os.environ.get("LINGEN_PARENT_RUN"),
        },
    )


def _train(task: TAEWorkerTask, run: Run | None) -> bool:
    """The training itself; `run` on rank 0 only."""
    config, output = task.config, task.config.output
    hooks = TAEHooks()
    if run is not None:
        video = functools.partial(run.video, "reconstruction", fps=config.pixels.fps)
        hooks = TAEHooks(log=run.metrics, pictures=video, notice=StopFile(output))
    tae, report, finished = fit_tae(
        config.fit,
        _segments(task, "video", held_out=False),
        _segments(task, "image", held_out=False),
        _segments(task, "video", held_out=True) or _segments(task, "image", held_out=True),
        output,
        hooks,
    )
    if run is not None and finished:
        save_tae(tae, output)
        write_json(output / REPORT, report)
        run.artifact(output / "tae.json")
    return finished


def _segments(task: TAEWorkerTask, media: str, held_out: bool) -> Segments:
    """Functions that read the segments of one medium."""
    chosen = [s for s in task.segments if s.media == media and s.held_out == held_out]
    return [functools.partial(s.read, task.config.output / PIXELS) for s in chosen]
