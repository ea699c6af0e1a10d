"""What a worker reports while it trains, and its losses once it is finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lingen.io.manifest import read_json, write_json
from pipelines.ray_train import metrics_file
from pipelines.tracking import Run


def first_and_last(output: Path) -> dict[str, list[float]]:
    """Metric -> [at the start, at the end] of a finished stage.

    `val/loss` is the first and the last; `loss`, of few samples each time, the mean over the first and the last tenth
    of the reports, at least three.
    """
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


def first_start(folder: Path) -> float:
    """When the stage was started for the first time, however often since (seconds since 1970)."""
    path = folder / "first_start.json"
    if not path.is_file():
        write_json(path, time.time())
    return read_json(path)


def train_tracked(train: Callable[[Run | None], bool], folder: Path, options: dict[str, Any]) -> bool:
    """Call train(run) on this worker, and end the run with its outcome: FINISHED, KILLED (asked to stop) or FAILED.

    Args:
        train: returns whether training is finished; `run` is None on all ranks but 0.
        folder, options: arguments of pipelines.tracking.Run.

    Returns:
        The result of `train`.
    """
    run = Run(folder, **options) if dist.get_rank() == 0 else None
    try:
        finished = train(run)
    except BaseException:
        if run is not None:
            run.close("FAILED", timeout_s=5)
        raise
    if run is not None:
        run.close("FINISHED" if finished else "KILLED")
    return finished


class Report:
    """Sends metrics to MLflow, with the goodput.

    Goodput is the share of the time since the first start, waits for a restart included, that went into steps that
    count. Steps repeated after a restart count once, those that the guard skipped never.
    """

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
