"""One worker of a stage, in a process of Ray Train."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lingen.data.buckets import Bucket
from lingen.generate.sampler import sample
from lingen.io.video import decoded_frames
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.pretrained import export_model, model_folder
from lingen.tae.pretrained import load_tae
from lingen.train.export import whole_weights
from lingen.train.observers.observer import Observer, Step
from lingen.train.observers.preemption import StopFile
from lingen.train.stage import Hooks, fit
from pipelines.ray_train import TRACKING, DrainNotice, prepare_worker
from pipelines.recipes import find_stage
from pipelines.tracking import Run
from pipelines.training.config import TrainConfig
from pipelines.training.prepare import select_shards
from pipelines.training.prompts import PROMPTS, read_prompts
from pipelines.training.reporting import Report

SAMPLES = "samples"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What the driver has settled for every worker: it travels to them whole."""

    config: TrainConfig
    architecture: DenoiserConfig
    about: dict[str, Any]
    """what the exported model's config.json says beside the architecture"""
    tae: Path
    """folder of the TAE that made the latents"""
    clips: list[str] | None
    """clip_ids of the reviewed set; None: all"""
    first_start: float
    """when the stage was started for the first time (seconds since 1970)"""
    run: dict[str, Any]
    """of the MLflow run: arguments of pipelines.tracking.Run"""


def train_worker(task: WorkerTask) -> bool:
    """Train the stage on this worker. Returns whether it is finished (and not asked to stop)."""
    config, output = task.config, task.config.output
    prepare_worker(config.workers)
    rank = dist.get_rank()
    run = Run(output / TRACKING, **task.run) if rank == 0 else None
    try:
        finished = _train(task, run)
    except BaseException:
        if run is not None:
            run.close("FAILED", timeout_s=5)
        raise
    if run is not None:
        run.close("FINISHED" if finished else "KILLED")
    return finished


def _train(task: WorkerTask, run: Run | None) -> bool:
    """The training itself; `run` on rank 0 alone."""
    config, output = task.config, task.config.output
    _, stage = find_stage(config.stage)
    hooks = Hooks(sample=Preview(task, run), notice_together=DrainNotice())
    if run is not None:
        hooks = dataclasses.replace(hooks, log=Report(run, task.first_start), notice=StopFile(output))
    record = output / SAMPLES / f"{dist.get_rank():05d}.jsonl"
    model, ema, finished = fit(
        config.fit,
        task.architecture,
        select_shards(config.shards, stage),
        output,
        init=model_folder(config.init, "--init") if config.init else None,
        hooks=hooks,
        clips=task.clips,
        about={"stage": stage.name, "parent": str(config.init) if config.init else None},
        observers=[SampleRecord(record)] if config.record_samples else [],
    )
    if finished:
        raw, averaged = whole_weights(model, ema)
        if run is not None:
            export_model(output / "model", raw, averaged, task.architecture, task.about, task.tae)
            run.artifact(output / "model" / "config.json", "model")
            run.model(task.run["experiment"], output / "model", alias=stage.name)
    return finished


class SampleRecord(Observer):
    """One line per step: the step (from 1, as in the metrics), the first place in the global batch, the samples' keys.

    A step that was trained twice, before and after a restart, is there twice.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115  (whole lines; as long as the worker lives)

    def before_step(self, step: Step) -> None:
        line = {"step": step.done, "place": step.batch.places.start, "keys": step.batch.keys}
        self._file.write(json.dumps(line) + "\n")


class Preview:
    """Sample videos for fixed prompts and fixed noise, drawn by all ranks together, decoded and logged by rank 0."""

    def __init__(self, task: WorkerTask, run: Run | None):
        self._config, self._run, self._about = task.config, run, task.about
        self._text = read_prompts(self._config.output / PROMPTS)
        self._bucket = Bucket.parse(self._about["bucket"])
        self._tae = load_tae(task.tae) if run is not None else None

    def __call__(self, step: int, model: Denoiser) -> None:
        device = next(model.parameters()).device
        count = len(self._text[0][0])
        shape = (count, *self._about["latent_shape"])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        text = [(embedding.to(device), mask.to(device)) for embedding, mask in self._text]
        latents = sample(model, noise, text, self._config.sampler)
        if self._run is None:
            return
        videos = [
            np.concatenate(list(decoded_frames(self._tae, latent.cpu(), self._bucket.frames))) for latent in latents
        ]
        name = "image" if self._bucket.frames == 1 else "video"
        self._run.video(name, step, videos, self._about["fps"])
