"""One worker of a stage, in a process of Ray Train."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lingen.data.buckets import Bucket
from lingen.generate.sampler import sample
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.pretrained import model_folder
from lingen.tae.frames import decoded_frames
from lingen.tae.pretrained import load_tae
from lingen.train.export import export_stage
from lingen.train.observers.observer import Observer, Step
from lingen.train.observers.preemption import StopFile
from lingen.train.stage import Hooks, fit
from pipelines.ray_train import TRACKING, DrainNotice, prepare_worker
from pipelines.recipes import find_stage
from pipelines.tracking import Run
from pipelines.training.config import TrainConfig
from pipelines.training.prepare import select_shards
from pipelines.training.prompts import PROMPTS, read_prompts
from pipelines.training.reporting import Report, train_tracked

SAMPLES = "samples"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What the driver has settled for every worker; sent to each as a whole."""

    config: TrainConfig
    architecture: DenoiserConfig
    about: dict[str, Any]
    """content of the exported model's config.json beside the architecture"""
    tae: Path
    """folder of the TAE that made the latents"""
    clips: list[str] | None
    """clip_ids of the reviewed set; None: all"""
    first_start: float
    """when the stage was started for the first time (seconds since 1970)"""
    run: dict[str, Any]
    """arguments of pipelines.tracking.Run"""


def train_worker(task: WorkerTask) -> bool:
    """Train the stage on this worker. Returns whether it is finished (and was not asked to stop)."""
    prepare_worker(task.config.workers)
    return train_tracked(functools.partial(_train, task), task.config.output / TRACKING, task.run)


def _train(task: WorkerTask, run: Run | None) -> bool:
    """The training itself; `run` on rank 0 only."""
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
        export_stage(output / "model", model, ema, task.about, task.tae)
        if run is not None:
            run.artifact(output / "model" / "config.json", "model")
            run.model(task.run["experiment"], output / "model", alias=stage.name)
    return finished


class SampleRecord(Observer):
    """Writes one line per step: its number (from 1, as in the metrics), this rank's first place in the global batch,
    and the samples' keys.

    A step repeated after a restart is there twice.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115  (line-buffered; open for the worker's lifetime)

    def before_step(self, step: Step) -> None:
        line = {"step": step.done, "place": step.batch.places.start, "keys": step.batch.keys}
        self._file.write(json.dumps(line) + "\n")


class Preview:
    """Sample videos for fixed prompts and fixed noise: sampled by all ranks together, decoded and logged by rank 0."""

    def __init__(self, task: WorkerTask, run: Run | None):
        self._config, self._run, self._about = task.config, run, task.about
        self._text = read_prompts(self._config.output / PROMPTS)
        self._bucket = Bucket.parse(self._about["bucket"])
        self._tae = load_tae(task.tae) if run is not None else None

    def __call__(self, step: int, model: Denoiser) -> None:
        """Sample and log at a step."""
        device = next(model.parameters()).device
        count = len(self._text[0][0])
        shape = (count, *self._about["latent_shape"])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        text = [(embedding.to(device), mask.to(device)) for embedding, mask in self._text]
        latents = sample(model, noise, text, self._config.sampler)
        if self._run is None or self._tae is None:
            return
        videos = [
            np.concatenate(list(decoded_frames(self._tae, latent.cpu(), self._bucket.frames))) for latent in latents
        ]
        name = "image" if self._bucket.frames == 1 else "video"
        self._run.video(name, step, videos, self._about["fps"])
