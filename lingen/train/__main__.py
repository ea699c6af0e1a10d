"""Train on encoded shards without Ray and MLflow: one process, or several under torchrun.

    torchrun --nproc-per-node 2 -m lingen.train --shards out/latents --output out/run --preset tiny steps=200 lr=1e-3

`name=value` sets a field of FitConfig (guard.max_skips=5 one of the guard's). The output folder gets what jobs/train.py
writes (checkpoints/, model/) and metrics.jsonl. Exit codes: 0 done, 2 bad configuration, 75 asked to stop (SIGTERM, or
a file named `stop` in the output folder) and saved: the same command continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist

from lingen.data.shard_index import ShardIndex, first_captions
from lingen.io.disk_errors import explain
from lingen.io.exit_codes import BAD_CONFIGURATION, DONE, PREEMPTED
from lingen.io.manifest import require_manifest, whole_lines
from lingen.io.redact import printable, redact_logs
from lingen.model.denoiser import DenoiserConfig
from lingen.model.presets import PRESETS
from lingen.model.pretrained import model_folder, read_about
from lingen.text.encoders import parse_text_encoders
from lingen.train.checkpoint import checkpoints
from lingen.train.config import FitConfig
from lingen.train.export import check_same_latents, describe, export_stage
from lingen.train.hand_over import grown, position_scale
from lingen.train.observers.preemption import Notice, StopFile, clear_stop_file, on_sigterm
from lingen.train.stage import Hooks, fit

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    parser = argparse.ArgumentParser("lingen.train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", required=True, help="output folder of jobs/encode.py")
    parser.add_argument("--output", required=True, type=Path, help="folder for checkpoints, metrics and the model")
    parser.add_argument("--preset", default="tiny", choices=sorted(PRESETS), help="architecture, without --init")
    parser.add_argument("--init", type=Path, help="model folder of an earlier stage; its weights are the start")
    parser.add_argument("--media", choices=("image", "video"), help="train on one medium only")
    parser.add_argument("--resolution", type=int, help="train on the buckets of one resolution")
    parser.add_argument("--frames", type=int, help="train on videos of one length, and images")
    parser.add_argument("fit", nargs="*", metavar="name=value", help="fields of FitConfig, such as steps=200")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    redact_logs()
    try:
        config = _with_values(FitConfig(), options.fit)
        shards = ShardIndex.open(options.shards).select(options.media, options.resolution, options.frames)
        finished = _train(config, shards, options)
    except ValueError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return BAD_CONFIGURATION
    except (OSError, RuntimeError) as error:
        found = explain(error, options.output)
        if found is None:
            raise
        print(f"error: {printable(found[0])}", file=sys.stderr)
        return found[1]
    return DONE if finished else PREEMPTED


def _train(config: FitConfig, shards: ShardIndex, options: argparse.Namespace) -> bool:
    """Train as configured. Returns whether training is finished (and was not asked to stop)."""
    encoded = require_manifest(options.shards, "encode", "--shards")
    text = list(parse_text_encoders(encoded["config"]["text"]).values())
    if options.init:
        options.init = model_folder(options.init, "--init")
        before = read_about(options.init)
        check_same_latents(before, shards, options.init)
        architecture = grown(DenoiserConfig.from_dict(before["model"]), shards, position_scale(before, shards))
        preset = before["preset"]
    else:
        preset = options.preset
        architecture = grown(dataclasses.replace(PRESETS[options.preset], text_dims=shards.text_dims), shards)
    if (options.output / "model").exists() and not checkpoints(options.output / "checkpoints"):
        raise ValueError(f"--output: {options.output}/model is of no run in this folder; choose another folder")
    clear_stop_file(options.output)
    _join(config.hang_timeout)
    sigterm, file = threading.Event(), StopFile(options.output)
    try:
        if dist.get_rank() == 0:
            options.output.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        metrics = MetricsFile(options.output / "metrics.jsonl")
        hooks = Hooks(log=metrics, notice=lambda: Notice.STOP if sigterm.is_set() else file())
        with on_sigterm(sigterm.set):
            model, ema, finished = fit(config, architecture, shards, options.output, options.init, hooks)
        if finished:
            about = describe(options.output.name, preset, shards, text, first_captions(shards))
            export_stage(options.output / "model", model, ema, about, Path(options.shards) / "tae")
        return finished
    finally:
        dist.destroy_process_group()


def _join(timeout_s: float) -> None:
    """Join the launcher's process group, or form one of this process alone."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if "RANK" not in os.environ:
        dist.init_process_group("nccl" if gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)
        return
    dist.init_process_group("nccl" if gpu else "gloo", timeout=datetime.timedelta(seconds=timeout_s))


class MetricsFile:
    """Rank 0 appends one JSON line per report; a step reported before a restart is not reported again."""

    def __init__(self, path: Path):
        self._path = path
        lines = [] if dist.get_rank() else whole_lines(path)
        self._last = json.loads(lines[-1])["step"] if lines else 0

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if dist.get_rank() or step <= self._last:
            return
        with open(self._path, "a") as f:
            f.write(json.dumps({"step": step, "time_ms": int(time.time() * 1000), **metrics}) + "\n")
        shown = ("loss", "val/loss", "step_s")
        print(f"step {step}: " + ", ".join(f"{n} {metrics[n]:.4g}" for n in shown if n in metrics), flush=True)


def _with_values(config: Config, settings: Sequence[str]) -> Config:
    """The configuration with some `name=value` applied. ValueError: the message names the one that does not fit."""
    for setting in settings:
        name, equals, text = setting.partition("=")
        try:
            if not equals:
                raise KeyError(name)
            config = _with_value(config, name, text)
        except KeyError:
            raise ValueError(
                f"{setting}: write name=value with a field of FitConfig (lingen/train/config.py)"
            ) from None
        except TypeError as error:
            raise ValueError(f"{setting}: {error}") from None
    return config


def _with_value(config: Config, name: str, text: str) -> Config:
    """A copy with one field, which may be `a.b`, read from text.

    Raises:
        KeyError: there is no such field.
        TypeError: the text is not a value of its type.
    """
    field, _, inner = name.partition(".")
    before = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}[field]
    if dataclasses.is_dataclass(before) and not isinstance(before, type):
        return dataclasses.replace(config, **{field: _with_value(before, inner, text)})
    if inner:
        raise KeyError(name)
    try:
        value = {"true": True, "false": False}[text.lower()] if isinstance(before, bool) else type(before)(text)
    except (ValueError, KeyError):
        raise TypeError(f"{text} is not a valid {type(before).__name__}") from None
    return dataclasses.replace(config, **{field: value})


if __name__ == "__main__":
    sys.exit(main())
