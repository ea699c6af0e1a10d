"""One MLflow run tied to a folder: what a job logs to."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lingen.io.redact import redact, redacted
from lingen.io.video import enlarge, frame_grid, write_mp4
from pipelines.tracking.facts import experiment_name, git_state
from pipelines.tracking.files import RunFiles, RunState, read_state
from pipelines.tracking.sender import Sender
from pipelines.tracking.store import store_beside

log = logging.getLogger(__name__)

PARAM_LENGTH = 500
"""longer parameters are cut off"""
TAG_LENGTH = 5000
"""longer tags are cut off, at the end of a line if they have some; stores take at least this"""


class Run:
    """One MLflow run tied to a folder.

    Args:
        folder: holds run.json (the run id, what was sent), metrics.jsonl and artifacts.jsonl.
        experiment, name: in MLflow.
        uri: the tracking store; default: the one beside `folder`.
        params, tags, datasets: sent once; datasets as `dataset` makes them.
        parent: run id of the parent run; default: LINGEN_PARENT_RUN, set by the workflow.
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
        datasets: Sequence[dict[str, str]] = (),
    ):
        self.folder = Path(folder)
        self.uri = uri or store_beside(folder)
        parent = parent or os.environ.get("LINGEN_PARENT_RUN")
        state = RunState(
            experiment=experiment,
            name=name,
            params={k: redact(str(v))[:PARAM_LENGTH] for k, v in (params or {}).items()},
            tags=redacted(tags or {}) | ({"mlflow.parentRunId": parent} if parent else {}),
            datasets=redacted(datasets),
        )
        self._files = RunFiles(self.folder, state)
        self._last_step = self._files.metrics.last["step"] if self._files.metrics.last else -1
        self._sender = Sender(self._files, self.uri)

    @property
    def run_id(self) -> str | None:
        """None until MLflow has answered once."""
        return self._files.state.run_id

    def wait_for_id(self, timeout_s: float = 60.0) -> str | None:
        """The run id, once MLflow has given one; None when it does not answer in time."""
        deadline = time.monotonic() + timeout_s
        while self.run_id is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.run_id

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Log at a step. Steps logged before a restart are ignored: they would be the same points."""
        if step <= self._last_step:
            return
        self._last_step = step
        self._files.metrics.append({"step": step, "time_ms": int(time.time() * 1000), "metrics": values})

    def numbers(self, values: dict[str, float], step: int = 0) -> None:
        """Log numbers that are no curve: whenever they are given, also at a step that was logged before."""
        self._files.metrics.append({"step": step, "time_ms": int(time.time() * 1000), "metrics": values})

    def logged(self) -> Iterator[tuple[int, dict[str, float]]]:
        """(step, metrics) of all that was logged, by earlier starts too."""
        with open(self.folder / "metrics.jsonl", "rb") as f:
            for line in f:
                entry = json.loads(line)
                yield entry["step"], entry["metrics"]

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Send a file; it must stay in place until MLflow has it."""
        self._files.artifacts.append({"path": os.path.relpath(path, self.folder), "folder": folder})

    def tag(self, key: str, value: str) -> None:
        """Set a tag, in place of its earlier value."""
        value = redact(value)
        if len(value) > TAG_LENGTH:
            value = value[:TAG_LENGTH].rpartition("\n")[0] or value[:TAG_LENGTH]
        self._files.artifacts.append({"tag": key, "value": value})

    def describe(self, text: str) -> None:
        """Set the description at the top of the run's page, in Markdown."""
        self.tag("mlflow.note.content", text)

    def model(self, name: str, location: str | Path, alias: str) -> None:
        """Register a model: a new version of `name`, to which `alias` then points."""
        self._files.artifacts.append({"model": name, "location": str(location), "alias": alias})

    def video(self, name: str, step: int, videos: Sequence[np.ndarray], fps: float) -> None:
        """Send videos (uint8 (T, H, W, 3)) as mp4 files and one still grid; small ones are enlarged."""
        from PIL import Image

        folder = self.folder / "samples"
        enlarged = [enlarge(video) for video in videos]
        for i, video in enumerate(enlarged):
            self.artifact(write_mp4(folder / f"{name}_{step:08d}_{i}.mp4", video, fps), "samples")
        grid = folder / f"{name}_{step:08d}.png"
        Image.fromarray(frame_grid(enlarged)).save(grid)
        self.artifact(grid, "samples")

    def close(self, status: str = "FINISHED", timeout_s: float = 30.0) -> None:
        """Send what is left and end the run; gives up after `timeout_s` (the files keep what could not be sent)."""
        self._files.update(ended=status)
        self._sender.close(timeout_s)
        if self._files.state.seen != status:
            log.warning("MLflow at %s was not reached; unsent metrics stay in %s", self.uri, self.folder)


@contextlib.contextmanager
def tracked(folder: str | Path, experiment: str, name: str, **options: Any) -> Iterator[Run]:
    """A run that ends with the block as FINISHED, KILLED (Ctrl-C) or FAILED; `options` are Run's."""
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


def catch_up(folder: str | Path, uri: str) -> bool:
    """Send what MLflow has not seen of a run that has ended. Returns whether there is such a run in `folder`."""
    state = read_state(Path(folder))
    if state is None or state.ended is None:
        return False
    if state.seen != state.ended:
        Run(folder, state.experiment, state.name, uri).close(state.ended)
    return True


def run_id_of(folder: str | Path) -> str | None:
    """The id of the run in a folder; None where there is none, or MLflow has not answered yet."""
    state = read_state(Path(folder))
    return state.run_id if state else None


def log_outcome(
    output: str | Path,
    experiment: str,
    params: dict[str, Any],
    metrics: dict[str, float],
    artifacts: Sequence[Path],
    datasets: Sequence[dict[str, str]] = (),
    name: str | None = None,
) -> None:
    """Log the outcome of a job without steps as one run; once per output folder, however often the job is run."""
    folder, uri = Path(output) / "tracking", store_beside(output)
    if catch_up(folder, uri):
        return
    run = Run(
        folder,
        experiment_name(experiment),
        name or Path(output).name,
        uri=uri,
        params=params,
        tags=git_state(),
        datasets=datasets,
    )
    run.metrics(0, metrics)
    for path in artifacts:
        run.artifact(path)
    run.close()
