"""MLflow as the window on a run whose truth is in files: training never waits for it and goes on when it is away.

Metrics are appended to metrics.jsonl in the run's folder; a thread sends what MLflow has not seen yet. After a restart
the same MLflow run goes on, and what was sent is not sent again: one curve, no doubled points.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lingen.manifest import read_json, write_json
from lingen.video import enlarge, frame_grid, write_mp4

log = logging.getLogger(__name__)

SEND_EVERY_S = 2.0
BATCH = 500  # metrics in one request; MLflow takes at most 1000
PARAM_LENGTH = 500


def store_beside(output: str | Path) -> str:
    """The default tracking store: MLFLOW_TRACKING_URI, else mlflow.db in the folder that holds the output folder."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return f"sqlite:///{Path(output).resolve().parent / 'mlflow.db'}"


def experiment_name(default: str) -> str:
    """MLFLOW_EXPERIMENT_NAME, as in MLflow itself; the workflow sets it, so that a recipe's runs stand together."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or default


class Run:
    """One MLflow run tied to a folder.

    Args: folder, where run.json (the run id, what was sent) and metrics.jsonl live; experiment, name; uri of the store;
    params and tags, sent once; parent, run id of the parent run (default: LINGEN_PARENT_RUN, set by the workflow).
    """

    def __init__(
        self,
        folder: str | Path,
        experiment: str,
        name: str,
        uri: str | None = None,
        params: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        parent: str | None = None,
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.uri = uri or store_beside(folder)
        self.experiment, self.name = experiment, name
        self._params = {k: str(v)[:PARAM_LENGTH] for k, v in (params or {}).items()}
        parent = parent or os.environ.get("LINGEN_PARENT_RUN")
        self._tags = dict(tags or {}) | ({"mlflow.parentRunId": parent} if parent else {})
        self._state_path, self._lines_path = self.folder / "run.json", self.folder / "metrics.jsonl"
        self._state = read_json(self._state_path) if self._state_path.is_file() else {"run_id": None, "sent": 0}
        self._last_step = self._newest_step()
        self._artifacts: list[tuple[Path, str]] = []
        self._lock = threading.Lock()
        self._wake, self._closing = threading.Event(), False
        self._complained = False
        self._thread = threading.Thread(target=self._send_forever, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """None until MLflow has answered once."""
        return self._state["run_id"]

    def wait_for_id(self, timeout_s: float = 60.0) -> str | None:
        """The run id, once MLflow has given one; None when it does not answer in time."""
        deadline = time.monotonic() + timeout_s
        while self.run_id is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.run_id

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Log at a step. Steps that were logged before a restart are left alone: they would be the same points."""
        if step <= self._last_step:
            return
        self._last_step = step
        line = json.dumps({"step": step, "time_ms": int(time.time() * 1000), "metrics": values})
        with self._lock, open(self._lines_path, "a") as f:
            f.write(line + "\n")
        self._wake.set()

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Send a file; it must stay where it is until `close`."""
        with self._lock:
            self._artifacts.append((Path(path), folder))
        self._wake.set()

    def video(self, name: str, step: int, frames: list[np.ndarray], fps: float) -> None:
        """Videos (uint8 (T, H, W, 3)) as playable mp4 files and one still grid; small ones are enlarged to be seen."""
        from PIL import Image

        folder = self.folder / "samples"
        frames = [enlarge(video) for video in frames]
        for i, video in enumerate(frames):
            self.artifact(write_mp4(folder / f"{name}_{step:08d}_{i}.mp4", video, fps), "samples")
        grid = folder / f"{name}_{step:08d}.png"
        Image.fromarray(frame_grid(frames)).save(grid)
        self.artifact(grid, "samples")

    def close(self, status: str = "FINISHED", timeout_s: float = 30.0) -> None:
        """Send what is left and end the run; gives up after `timeout_s` (the files keep what could not be sent)."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive() or self._pending():
            log.warning("MLflow at %s was not reached; unsent metrics stay in %s", self.uri, self._lines_path)
        elif self.run_id:
            self._client().set_terminated(self.run_id, status)

    def _newest_step(self) -> int:
        if not self._lines_path.is_file():
            return -1
        text = self._lines_path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a kill in the middle of a line
            self._lines_path.write_text(whole)
        lines = whole.splitlines()
        return json.loads(lines[-1])["step"] if lines else -1

    def _pending(self) -> bool:
        with self._lock:
            lines = self._lines_path.read_text().count("\n") if self._lines_path.is_file() else 0
            return bool(self._artifacts) or lines > self._state["sent"] or self.run_id is None

    def _send_forever(self) -> None:
        while True:
            self._wake.wait(SEND_EVERY_S)
            self._wake.clear()
            closing = self._closing
            try:
                self._send()
                self._complained = False
            except Exception as error:
                # Whatever is wrong with the tracking server, training is worth more than its picture.
                if not self._complained:
                    log.warning("MLflow at %s is away (%s); metrics wait in %s", self.uri, error, self._lines_path)
                    self._complained = True
            if closing:
                return
            time.sleep(SEND_EVERY_S if self._complained else 0.2)

    def _client(self):
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def _send(self) -> None:
        client = self._client()
        if self.run_id is None:
            run = client.create_run(
                experiment_id(client, self.experiment, self.uri), run_name=self.name, tags=self._tags
            )
            self._remember(run_id=run.info.run_id)
            for key, value in self._params.items():
                client.log_param(self.run_id, key, value)
        self._send_metrics(client)
        while True:
            with self._lock:
                if not self._artifacts:
                    return
                path, folder = self._artifacts[0]
            if path.is_file():
                client.log_artifact(self.run_id, str(path), folder or None)
            with self._lock:
                self._artifacts.pop(0)

    def _send_metrics(self, client) -> None:
        from mlflow.entities import Metric

        if not self._lines_path.is_file():
            return
        with self._lock:
            lines = self._lines_path.read_text().splitlines()[self._state["sent"] :]
        while lines:
            metrics, count = [], 0
            for line in lines:
                entry = json.loads(line)
                if metrics and len(metrics) + len(entry["metrics"]) > BATCH:
                    break
                metrics += [Metric(k, float(v), entry["time_ms"], entry["step"]) for k, v in entry["metrics"].items()]
                count += 1
            client.log_batch(self.run_id, metrics=metrics)
            self._remember(sent=self._state["sent"] + count)
            lines = lines[count:]

    def _remember(self, **changes) -> None:
        self._state |= changes
        write_json(self._state_path, self._state)


def experiment_id(client, name: str, uri: str) -> str:
    """The experiment's id, made when missing; with a local SQLite store its artifacts go beside the database."""
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    where = None
    if uri.startswith("sqlite:///"):
        where = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts" / name).as_uri()
    try:
        # The kind makes the UI open in its training view instead of the one for chat applications.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client.create_experiment(name, artifact_location=where, tags=kind)
    except Exception:  # another job made it in between
        return client.get_experiment_by_name(name).experiment_id


@contextlib.contextmanager
def tracked(folder: str | Path, experiment: str, name: str, **options) -> Iterator[Run]:
    """A run that ends as FINISHED, KILLED (Ctrl-C) or FAILED with the block."""
    run = Run(folder, experiment, name, **options)
    try:
        yield run
    except KeyboardInterrupt:
        run.close("KILLED")
        raise
    except BaseException:
        run.close("FAILED")
        raise
    run.close()


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def git_state(root: Path = Path(__file__).parents[1]) -> dict[str, str]:
    """Commit and whether the tree is clean, as tags; nothing outside a checkout."""
    import subprocess

    def git(*args):
        return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10)

    try:
        head = git("rev-parse", "HEAD")
        if head.returncode:
            return {}
        dirty = bool(git("status", "--porcelain").stdout.strip())
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"mlflow.source.git.commit": head.stdout.strip(), "git.dirty": str(dirty).lower()}


def log_outcome(
    output: str | Path, experiment: str, params: dict[str, Any], metrics: dict[str, float], artifacts: list[Path]
) -> None:
    """What a job without steps came to, as one run; logged once per output folder, however often the job is run."""
    folder = Path(output) / "tracking"
    if (folder / "metrics.jsonl").is_file() and read_json(folder / "run.json")["sent"]:
        return
    run = Run(
        folder,
        experiment_name(experiment),
        Path(output).name,
        uri=store_beside(output),
        params=params,
        tags=git_state(),
    )
    run.metrics(0, metrics)
    for path in artifacts:
        run.artifact(path)
    run.close()
