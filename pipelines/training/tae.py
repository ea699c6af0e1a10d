"""Train the temporal autoencoder on curated clips: decode windows once, then fit under Ray Train, tracked in MLflow."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import time
from pathlib import Path
from typing import Any

from data_prep.encode.job import read_clips
from data_prep.encode.pixels import PixelConfig, PixelWindow, write_pixels
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
from lingen.train.observers.preemption import StopFile
from lingen.train.tae import TAEFitConfig, TAEHooks, fit_tae
from pipelines.cli import Preempted
from pipelines.ray_train import TRACKING, TrainWorkers, absolute_paths, prepare_worker, run_workers
from pipelines.tracking import Run, catch_up, experiment_name, flatten, git_state, store_beside

log = logging.getLogger(__name__)

REPORT = "held_out.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTAEConfig:
    """Train the temporal autoencoder (TAE) on curated clips, and resume it when it was interrupted."""

    curated: Path
    """output folder of jobs/curate.py"""
    output: Path
    """folder for the TAE; the same command resumes in it"""
    pixels: PixelConfig = dataclasses.field(default_factory=PixelConfig)
    """which windows are cut from the clips"""
    fit: TAEFitConfig = dataclasses.field(default_factory=TAEFitConfig)
    """how the TAE is trained"""
    workers: TrainWorkers = dataclasses.field(default_factory=TrainWorkers)
    """the training workers"""
    mlflow: str | None = None
    """MLflow tracking URI; default: MLFLOW_TRACKING_URI, else mlflow.db beside the output folder"""
    overwrite: bool = False
    """replace an output folder made with other settings"""


def train_tae(config: TrainTAEConfig) -> dict[str, Any]:
    """Train to the end; a finished folder of the same settings is left as it is. Returns the manifest.

    Raises:
        ValueError: bad configuration, before any work starts.
        Preempted: it was asked to stop (SIGTERM, or a file named `stop` in the output folder), and saved.
        RuntimeError: training failed more often than workers.max_failures allows.
    """
    started = time.time()
    config = dataclasses.replace(absolute_paths(config), fit=absolute_paths(config.fit))
    require_manifest(config.curated, "curate", "--curated")
    if config.fit.batch_size % config.workers.count:
        raise ValueError(
            f"--workers.count: {config.workers.count} does not divide the batch of {config.fit.batch_size} windows"
        )
    clips_path = config.curated / "clips.parquet"
    content = {"pixels": to_plain(config.pixels), "fit": to_plain(config.fit)}
    inputs = {"clips": file_digest(clips_path)}
    if config.fit.perceptual is not None:
        inputs["perceptual"] = file_digest(config.fit.perceptual)
    folder = OutputFolder.open(config.output, "train_tae", content, inputs, overwrite=config.overwrite)
    if folder.finished:
        catch_up(folder.path / TRACKING, config.mlflow or store_beside(config.output))
        log.info("%s is finished; nothing to do", folder.path)
        return read_manifest(folder.path)
    connect()
    windows, errors = write_pixels(read_clips(clips_path), folder.path / "pixels", config.pixels)
    if not any(w.held_out for w in windows):
        log.warning("all clips come from one source: nothing can be held out, so there is no validation PSNR")
    plan = {
        "config": config,
        "windows": windows,
        "run": {
            "experiment": experiment_name("lingen-tae"),
            "name": config.fit.preset,
            "uri": config.mlflow or store_beside(config.output),
            "params": flatten(content | {"windows": len(windows), "held_out": sum(w.held_out for w in windows)}),
            "tags": {"stage": "train_tae", **git_state()},
            "parent": os.environ.get("LINGEN_PARENT_RUN"),
        },
    }
    progress = Progress(config.fit.preset, config.fit.steps, unit="steps")
    if not run_workers(_worker, plan, config.workers, folder, progress):
        raise Preempted(f"training is saved in {config.output}/checkpoints; the same command goes on from there")
    report = {k.removeprefix("held_out/"): round(v, 3) for k, v in read_json(folder.path / REPORT).items()}
    return folder.publish(
        {"tae": load_tae(folder.path).digest, "windows": len(windows), "unreadable": len(errors), "held_out": report},
        started,
    )


def _worker(plan: dict) -> bool:
    """One worker; runs in a Ray Train worker process. Returns whether training is finished."""
    import torch.distributed as dist

    config: TrainTAEConfig = plan["config"]
    prepare_worker(config.workers)
    output, windows = config.output, plan["windows"]
    readers = functools.partial(_readers, windows, output / "pixels")
    first = dist.get_rank() == 0
    run = Run(output / TRACKING, **plan["run"]) if first else None

    def on_pictures(step: int, videos: list) -> None:
        run.video("reconstruction", step, videos, config.pixels.fps)

    try:
        tae, report, finished = fit_tae(
            config.fit,
            readers("video", held_out=False),
            readers("image", held_out=False),
            readers("video", held_out=True) or readers("image", held_out=True),
            output,
            TAEHooks(log=run.metrics, pictures=on_pictures, notice=StopFile(output)) if first else TAEHooks(),
        )
        if first and finished:
            save_tae(tae, output)
            write_json(output / REPORT, report)
            run.artifact(output / "tae.json")
    except BaseException:
        if run is not None:
            run.close("FAILED", timeout_s=5)
        raise
    if first:
        run.close("FINISHED" if finished else "KILLED")
    return finished


def _readers(windows: list[PixelWindow], folder: Path, media: str, held_out: bool) -> list:
    chosen = [w for w in windows if w.media == media and w.held_out == held_out]
    return [functools.partial(w.read, folder) for w in chosen]
