"""Ray Train around lingen.training: one stage on any number of workers, resumed from its own checkpoints."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.quality import decisions
from lingen.buckets import Bucket
from lingen.denoiser import Denoiser, DenoiserConfig
from lingen.export import check_same_latents, describe, export_model, model_folder, read_about, whole_weights
from lingen.loader import LatentBatch
from lingen.manifest import (
    OutputFolder,
    digest,
    file_digest,
    read_json,
    read_manifest,
    require_manifest,
    to_plain,
    write_json,
)
from lingen.preemption import StopFile
from lingen.presets import PRESETS
from lingen.progress import Progress
from lingen.sampler import SamplerConfig, sample
from lingen.selection import licences, select
from lingen.shard_index import ShardIndex, first_captions, samples_digest
from lingen.tae import load_tae
from lingen.text import TextEncoderConfig, build_text_encoder, pad_text, parse_text_encoders
from lingen.training import FitConfig, Hooks, batch_plan, fit, grown
from lingen.video import decoded_frames
from pipelines.cli import Preempted
from pipelines.ray_train import (
    TRACKING,
    DrainNotice,
    WorkerConfig,
    absolute_paths,
    metrics_file,
    prepare_worker,
    run_workers,
)
from pipelines.recipes import Recipe, TrainStage, find_stage
from pipelines.tracking import Run, catch_up, dataset, experiment_name, flatten, git_state, store_beside

log = logging.getLogger(__name__)

PROMPTS = "prompts.safetensors"
SAMPLES = "samples"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train one stage of a recipe under Ray Train, and resume it when it was interrupted."""

    stage: str
    """stage of a recipe, such as demo_t2v_64p_1s or t2v_256p_17s; sets the defaults of --fit"""
    shards: Path
    """output folder of jobs/encode.py"""
    output: Path
    """folder for checkpoints, samples and the trained model; the same command resumes in it"""
    init: Path | None = None
    """output folder of the stage before; its weights are the start"""
    quality: Path | None = None
    """a reviewed quality.csv (jobs/curate.py --quality.count): train on the clips it keeps alone; quality tuning"""
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    """how the stage is trained (defaults: the stage's)"""
    prompts: tuple[str, ...] = ()
    """prompts of the sample videos; default: the first two captions of the shards"""
    sampler: SamplerConfig = dataclasses.field(default_factory=lambda: SamplerConfig(steps=20, guidance=4.0))
    """how sample videos are drawn"""
    workers: WorkerConfig = dataclasses.field(default_factory=WorkerConfig)
    """the training workers"""
    mlflow: str | None = None
    """MLflow tracking URI; default: MLFLOW_TRACKING_URI, else mlflow.db beside the output folder"""
    record_samples: bool = False
    """write which samples every step saw to samples/ in the output folder, one file of JSON lines a worker"""
    overwrite: bool = False
    """replace an output folder made with other settings"""


def train(config: TrainConfig) -> dict[str, Any]:
    """Train the stage to its end; a finished folder of the same settings is left as it is. Returns the manifest.

    Raises:
        ValueError: bad configuration, before any work starts.
        RuntimeError: training failed more often than workers.max_failures allows.
        Preempted: it was asked to stop (SIGTERM, or a file named `stop` in the output folder), and saved.
    """
    started = time.time()
    config = absolute_paths(config)
    recipe, stage = find_stage(config.stage)
    encoded = require_manifest(config.shards, "encode", "--shards")
    shards = select_shards(config.shards, stage)
    if config.fit.batch_size < config.workers.count:
        raise ValueError(
            f"--workers.count: {config.workers.count} workers cannot share a batch of {config.fit.batch_size}"
        )
    clips = reviewed_clips(stage, config.quality)
    train, held_out = select(shards, config.fit.held_out, clips)
    batch_plan(config.fit, train)  # what it refuses is refused here, not in a worker
    log.info("%s: %d samples to train on, %d held out", stage.name, len(train), len(held_out) if held_out else 0)
    if config.fit.shard_group and config.workers.count % config.fit.shard_group:
        raise ValueError(f"--fit.shard-group: {config.fit.shard_group} does not divide {config.workers.count} workers")
    architecture = stage_architecture(stage, shards, config.init)
    inputs = {"shards": samples_digest(encoded), "init": None, "quality": clips and digest(clips)}
    if config.init:
        inputs["init"] = file_digest(model_folder(config.init, "--init") / "ema.safetensors")
    content = {"stage": stage.name, "preset": stage.preset, "fit": _curve_of(config.fit), "prompts": config.prompts}
    folder = OutputFolder.open(config.output, "train", content, inputs, overwrite=config.overwrite)
    if folder.finished:
        catch_up(folder.path / TRACKING, config.mlflow or store_beside(config.output))
        log.info("%s is finished; nothing to do", folder.path)
        return read_manifest(folder.path)

    text = list(parse_text_encoders(encoded["config"]["text"]).values())
    prompts = config.prompts or first_captions(shards)
    write_prompts(folder.path / PROMPTS, prompts, text, shards)
    tae = tae_of_shards(shards)
    about = describe(stage.name, stage.preset, shards, text, prompts)
    plan = {
        "config": config,
        "architecture": architecture.to_dict(),
        "about": about,
        "tae": str(tae.resolve()),
        "clips": clips,
        "first_start": first_start(folder.path / TRACKING),
        "run": {
            "experiment": experiment_name(f"lingen-{recipe.name}"),
            "name": stage.name,
            "uri": config.mlflow or store_beside(config.output),
            "params": _params(config, recipe, stage, architecture, train),
            "tags": {"stage": stage.name, "recipe": recipe.name, **git_state()},
            "datasets": [
                dataset(config.shards.name, str(config.shards), inputs["shards"], "training", {"samples": len(train)})
            ],
            "parent": os.environ.get("LINGEN_PARENT_RUN"),
        },
    }
    progress = Progress(stage.name, config.fit.steps, unit="steps")
    if not run_workers(_worker, plan, config.workers, folder, progress, config.fit.hang_timeout):
        raise Preempted(f"training is saved in {config.output}/checkpoints; the same command goes on from there")
    model = folder.path / "model"
    return folder.publish(
        {
            "model": file_digest(model / "ema.safetensors"),
            "steps": config.fit.steps,
            "loss": first_and_last(folder.path),
            "positions": {"before": _positions_of(config.init), "after": architecture.position_sizes},
            "checkpoint": str(Path("checkpoints") / f"step_{config.fit.steps:08d}"),
        },
        started,
    )


def select_shards(folder: Path, stage: TrainStage) -> ShardIndex:
    """The buckets that a stage trains on. ValueError naming --shards when there are none."""
    try:
        shards = ShardIndex.open(folder)
        if stage.frames == 1:
            return shards.select(media="image", resolution=stage.resolution)
        shards.select(media="video", resolution=stage.resolution, frames=stage.frames)  # images alone will not do
        return shards.select(resolution=stage.resolution, frames=stage.frames)
    except ValueError as error:
        raise ValueError(f"--shards: {error}") from error


def reviewed_clips(stage: TrainStage, path: Path | None) -> list[str] | None:
    """clip_ids that a reviewed list keeps, sorted; None without a list.

    Raises:
        ValueError: the stage is quality tuning and there is no list, or the list keeps nothing.
    """
    if path is None:
        if stage.quality:
            raise ValueError(f"--quality: stage {stage.name} trains on a reviewed set; name its quality.csv")
        return None
    if not path.is_file():
        raise ValueError(f"--quality: {path} is no file; make one with jobs/curate.py --quality.count")
    clips = sorted(clip for clip, stays in decisions(path, "--quality").items() if stays)
    if not clips:
        raise ValueError(f"--quality: {path} keeps no clip")
    return clips


def stage_architecture(stage: TrainStage, shards: ShardIndex, init: Path | None) -> DenoiserConfig:
    """The preset, for these text encoders, with position tables as large as this stage needs (they never shrink).

    Raises:
        ValueError: `init` is another architecture, or was trained on another TAE's latents; both are named. Or
            the shards' latents do not fit the preset.
    """
    preset = dataclasses.replace(PRESETS[stage.preset], text_dims=shards.text_dims)
    for bucket in shards.buckets.values():
        if bucket.latent_shape[0] != preset.latent_channels:
            raise ValueError(
                f"--shards: their latents have {bucket.latent_shape[0]} channels, preset {stage.preset} takes "
                f"{preset.latent_channels} (latent_channels); encode with a TAE of {preset.latent_channels} channels"
            )
    sizes = preset.position_sizes
    if init is not None:
        about = read_about(model_folder(init, "--init"))
        before = DenoiserConfig.from_dict(about["model"])
        if dataclasses.replace(before, position_sizes=sizes) != preset:
            raise ValueError(
                f"--init: {init} holds a {about['preset']} model, stage {stage.name} trains {stage.preset}; "
                "choose a checkpoint of the same preset and text encoders"
            )
        check_same_latents(about, shards, init)
        sizes = before.position_sizes
    try:
        return grown(dataclasses.replace(preset, position_sizes=sizes), shards)
    except ValueError as error:
        raise ValueError(f"--shards: preset {stage.preset} does not fit them: {error}") from error


def write_prompts(path: Path, prompts: tuple[str, ...], text: Sequence[TextEncoderConfig], shards: ShardIndex) -> None:
    """Embed the sample prompts once, here, so that training workers need no text encoder.

    Args: text, settings of each encoder, in the order of the shards' text formats.

    Raises:
        ValueError: an encoder built from the shards' settings is not the one that made the shards.
    """
    from safetensors.torch import save_file

    tensors = {}
    for i, (settings, form) in enumerate(zip(text, shards.text_format, strict=True)):
        encoder = build_text_encoder(settings)
        if encoder.digest != form.digest:
            raise ValueError(
                f"--shards: made with text encoder {form.model} ({form.digest}), "
                f"but these settings build {encoder.digest}; use the same package version and weights"
            )
        tensors[f"embedding.{i}"], tensors[f"mask.{i}"] = pad_text(encoder.encode(prompts))
    save_file(tensors, path)


def read_prompts(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What `write_prompts` wrote: (embedding, mask) per encoder."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    return [(tensors[f"embedding.{i}"], tensors[f"mask.{i}"]) for i in range(len(tensors) // 2)]


def tae_of_shards(shards: ShardIndex) -> Path:
    """The folder of the TAE that the shards were encoded with; jobs/encode.py puts a copy beside them.

    Raises:
        ValueError: it is not there, or is another one by now.
    """
    folder = Path(shards.folder) / "tae"
    if load_tae(folder).digest != shards.format.tae_digest:
        raise ValueError(f"--shards: the TAE in {folder} is not the one that made these latents; encode again")
    return folder


def _curve_of(fit_config: FitConfig) -> dict:
    """The part of the configuration that decides the loss curve and the weights."""
    bookkeeping = {"checkpoint_every", "keep_checkpoints", "keep_every", "log_every", "sample_every", "micro_batch"}
    bookkeeping |= {"validate_every", "validation_samples", "guard", "hang_timeout", "compile"}
    bookkeeping |= {"activation_checkpointing", "shard_group"}
    return {name: value for name, value in to_plain(fit_config).items() if name not in bookkeeping}


def _positions_of(init: Path | None) -> list[int] | None:
    """Sizes of the position tables that a stage starts from; None when it starts from random weights."""
    return read_about(model_folder(init))["model"]["position_sizes"] if init else None


def _params(config, recipe: Recipe, stage: TrainStage, architecture: DenoiserConfig, train: ShardIndex) -> dict:
    parameters = sum(p.numel() for p in _meta(architecture).parameters())
    return flatten(
        {
            "recipe": recipe.name,
            "preset": stage.preset,
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


def _meta(architecture: DenoiserConfig) -> Denoiser:
    with torch.device("meta"):
        return Denoiser(architecture)


def _worker(plan: dict) -> bool:
    """One worker of a stage; runs in a Ray Train worker process. Returns whether the stage is finished."""
    import torch.distributed as dist

    config: TrainConfig = plan["config"]
    prepare_worker(config.workers)
    architecture = DenoiserConfig.from_dict(plan["architecture"])
    _, stage = find_stage(config.stage)
    output = config.output
    rank = dist.get_rank()
    run = Run(output / TRACKING, **plan["run"]) if rank == 0 else None
    hooks = Hooks(sample=Preview(plan, run), notice_together=DrainNotice())
    if run:
        hooks = dataclasses.replace(hooks, log=Report(run, plan["first_start"]), notice=StopFile(output))
    if config.record_samples:
        hooks = dataclasses.replace(hooks, batch=SampleRecord(output / SAMPLES / f"{rank:05d}.jsonl"))
    try:
        model, ema, finished = fit(
            config.fit,
            architecture,
            select_shards(config.shards, stage),
            output,
            init=model_folder(config.init, "--init") if config.init else None,
            hooks=hooks,
            clips=plan["clips"],
            about={"stage": stage.name, "parent": str(config.init) if config.init else None},
        )
        if finished:
            raw, averaged = whole_weights(model, ema)
            if rank == 0:
                export_model(output / "model", raw, averaged, architecture, plan["about"], Path(plan["tae"]))
                run.artifact(output / "model" / "config.json", "model")
                run.model(plan["run"]["experiment"], output / "model", alias=stage.name)
    except BaseException:
        if run is not None:
            run.close("FAILED", timeout_s=5)
        raise
    if run is not None:
        run.close("FINISHED" if finished else "KILLED")
    return finished


def first_and_last(output: Path) -> dict[str, list[float]]:
    """Metric -> [at the start, at the end] of a finished stage: `val/loss`, and `loss` over its first and last tenth,
    of three reports at least: one is of few samples."""
    found: dict[str, list[float]] = {"loss": [], "val/loss": []}
    for line in metrics_file(output).read_text().splitlines():
        metrics = json.loads(line)["metrics"]
        for name, values in found.items():
            values += [metrics[name]] if name in metrics else []
    ends = {}
    for name, values in found.items():
        count = min(max(3, len(values) // 10), -(-len(values) // 2)) if name == "loss" else 1
        if values:
            ends[name] = [round(sum(part) / count, 4) for part in (values[:count], values[-count:])]
    return ends


CHANGES = ("positions (TxHxW)", "loss", "val/loss")


def changes(outputs: dict[str, Any]) -> list[str]:
    """What a finished stage changed, from its manifest's outputs, as text: position tables, loss, validation loss."""
    sizes = [outputs["positions"][when] for when in ("before", "after")]
    before, after = (s and "x".join(map(str, s)) for s in sizes)
    falls = (outputs["loss"].get(name) for name in CHANGES[1:])
    return [f"{before or 'none'} -> {after}", *("none" if f is None else f"{f[0]:.3f} -> {f[1]:.3f}" for f in falls)]


def first_start(folder: Path) -> float:
    """When the stage was started for the first time (seconds since 1970), however often since."""
    path = folder / "first_start.json"
    if not path.is_file():
        write_json(path, time.time())
    return read_json(path)


class Report:
    """Metrics on their way to MLflow, with the goodput: the share of the time since the first start, waiting to be
    started again included, that went into steps that count. Steps that a restart did again count once, those that the
    guard skipped never."""

    def __init__(self, run: Run, first_start: float):
        self._run, self._first_start = run, first_start
        self._useful_s, self._step = 0.0, 0
        for step, metrics in run.logged():
            self._count(step, metrics)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._count(step, metrics)
        if "step_s" in metrics:
            share = self._useful_s / max(time.time() - self._first_start, 1e-9)
            metrics = metrics | {"goodput_pct": 100 * min(share, 1.0)}
        self._run.metrics(step, metrics)

    def _count(self, step: int, metrics: dict[str, float]) -> None:
        if "step_s" in metrics and step > self._step:
            self._useful_s += metrics["step_s"] * (step - self._step - metrics["skipped_steps"])
            self._step = step


class SampleRecord:
    """One line per step: the step (from 1, as in the metrics), the first place in the global batch, the samples' keys.

    A step that was trained twice, before and after a restart, is there twice.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115  (whole lines; as long as the worker lives)

    def __call__(self, batch: LatentBatch) -> None:
        line = {"step": batch.step + 1, "place": batch.places.start, "keys": batch.keys}
        self._file.write(json.dumps(line) + "\n")


class Preview:
    """Sample videos for fixed prompts and fixed noise, drawn by all ranks together, decoded and logged by rank 0."""

    def __init__(self, plan: dict, run: Run | None):
        self._config: TrainConfig = plan["config"]
        self._run, self._about = run, plan["about"]
        self._text = read_prompts(self._config.output / PROMPTS)
        self._bucket = Bucket.parse(self._about["bucket"])
        self._tae = load_tae(plan["tae"]) if run is not None else None

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
