"""What a stage reports while it runs, and what it changed once it is finished."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lingen.io.manifest import read_json, write_json
from pipelines.ray_train import metrics_file
from pipelines.tracking import Run


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
