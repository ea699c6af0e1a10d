"""MLflow as the window on a run whose truth is in files: training never waits for it and goes on when it is away.

Metrics are appended to metrics.jsonl in the run's folder, names of files to artifacts.jsonl; a thread sends what MLflow
has not seen yet. After a restart the same MLflow run goes on, and what was sent is not sent again: one curve, no
doubled points. What MLflow missed when a job ended is sent when the same command is given again (`catch_up`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lingen.io.manifest import read_json, whole_lines, write_json
from lingen.io.video import enlarge, frame_grid, write_mp4

log = logging.getLogger(__name__)

SEND_EVERY_S = 10.0  # each time takes the interpreter from the training step for some tens of ms
BATCH = 500  # metrics in one request; MLflow takes at most 1000
PARAM_LENGTH = 500
PARAMS = 100  # in one request, MLflow's limit


def store_beside(output: str | Path) -> str:
    """The default tracking store: MLFLOW_TRACKING_URI, else mlflow.db in the folder that holds the output folder."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return f"sqlite:///{Path(output).resolve().parent / 'mlflow.db'}"


def create_store(uri: str) -> None:
    """Make a missing SQLite store whole or not at all: one whose first migration a kill cut off, MLflow cannot open."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        MlflowClient(f"sqlite:///{folder}/{path.name}").search_experiments()
        with contextlib.suppress(FileExistsError):  # another job was first: a link, unlike a rename, leaves its store
            os.link(f"{folder}/{path.name}", path)


def experiment_name(default: str) -> str:
    """MLFLOW_EXPERIMENT_NAME, as in MLflow itself; the workflow sets it, so that a recipe's runs stand together."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or default


class Run:
    """One MLflow run tied to a folder.

    Args: folder, where run.json (the run id, what was sent), metrics.jsonl and artifacts.jsonl live; experiment, name;
    uri of the store; params, tags and datasets (of `dataset`), sent once; parent, run id of the parent run (default:
    LINGEN_PARENT_RUN, set by the workflow).
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
        self.folder.mkdir(parents=True, exist_ok=True)
        self.uri = uri or store_beside(folder)
        parent = parent or os.environ.get("LINGEN_PARENT_RUN")
        self._path, self._lock = self.folder / "run.json", threading.Lock()
        before = read_json(self._path) if self._path.is_file() else {}
        self._state = {
            "run_id": None,
            "experiment": experiment,
            "name": name,
            "params": {k: str(v)[:PARAM_LENGTH] for k, v in (params or {}).items()},
            "tags": dict(tags or {}) | ({"mlflow.parentRunId": parent} if parent else {}),
            "datasets": list(datasets),
            "params_sent": False,
            "lines_sent": 0,
            "artifacts_sent": 0,
            # A restart keeps what was there: MLflow's parameters can be set once only.
            **before,
            "ended": None,  # how the job closed the run
            "seen": None,  # the ending that MLflow was told, after everything else
        }
        self._again = before.get("seen") is not None
        self._lines = _Lines(self.folder / "metrics.jsonl", self._state["lines_sent"])
        self._artifacts = _Lines(self.folder / "artifacts.jsonl", self._state["artifacts_sent"])
        self._last_step = self._lines.last["step"] if self._lines.last else -1
        self._remember()
        self._closed = threading.Event()
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
        self._lines.append({"step": step, "time_ms": int(time.time() * 1000), "metrics": values})

    def logged(self) -> Iterator[tuple[int, dict[str, float]]]:
        """(step, metrics) of all that was logged, by earlier starts too."""
        with open(self.folder / "metrics.jsonl", "rb") as f:
            for line in f:
                entry = json.loads(line)
                yield entry["step"], entry["metrics"]

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Send a file; it must stay where it is until MLflow has it."""
        self._artifacts.append({"path": os.path.relpath(path, self.folder), "folder": folder})

    def model(self, name: str, location: str | Path, alias: str) -> None:
        """Enter a model into the registry: a new version of `name`, which `alias` then means."""
        self._artifacts.append({"model": name, "location": str(location), "alias": alias})

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
        self._remember(ended=status)
        self._closed.set()
        self._thread.join(timeout_s)
        if self._state["seen"] != status:
            log.warning("MLflow at %s was not reached; unsent metrics stay in %s", self.uri, self.folder)

    def _send_forever(self) -> None:
        while True:
            ended = self._state["ended"]
            try:
                self._send(ended)
                self._complained = False
            except Exception as error:
                # Whatever is wrong with the tracking server, training is worth more than its picture.
                if not self._complained:
                    log.warning("MLflow at %s is away (%s); metrics wait in %s", self.uri, error, self.folder)
                    self._complained = True
            if ended:
                return
            self._closed.wait(SEND_EVERY_S)

    def _send(self, ended: str | None) -> None:
        from mlflow.entities import Metric, Param

        # This thread tries again for ever: a client that does so too would hold `close` up for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        client, state = self._client(), self._state
        if self.run_id is None:
            experiment = experiment_id(client, state["experiment"], self.uri)
            run = client.create_run(experiment, run_name=state["name"], tags=state["tags"])
            self._remember(run_id=run.info.run_id)
        elif self._again:
            client.update_run(self.run_id, status="RUNNING")
        self._again = False
        if not state["params_sent"]:
            params = [Param(key, value) for key, value in state["params"].items()]
            for first in range(0, len(params), PARAMS):
                client.log_batch(self.run_id, params=params[first : first + PARAMS])
            if state.get("datasets"):
                client.log_inputs(self.run_id, [_dataset_input(**d) for d in state["datasets"]])
            self._remember(params_sent=True)
        while lines := self._lines.unsent(BATCH):
            metrics, count = [], 0
            for entry in lines:
                if metrics and len(metrics) + len(entry["metrics"]) > BATCH:
                    break
                metrics += [Metric(k, float(v), entry["time_ms"], entry["step"]) for k, v in entry["metrics"].items()]
                count += 1
            client.log_batch(self.run_id, metrics=metrics)
            self._remember(lines_sent=self._lines.sent(count))
        while files := self._artifacts.unsent(1):
            if "model" in files[0]:
                register(client, self.uri, self.run_id, **files[0])
            elif (path := self.folder / files[0]["path"]).is_file():
                client.log_artifact(self.run_id, str(path), files[0]["folder"] or None)
            self._remember(artifacts_sent=self._artifacts.sent(1))
        if ended:
            client.set_terminated(self.run_id, ended)
            self._remember(seen=ended)

    def _client(self):
        from mlflow import MlflowClient

        create_store(self.uri)
        return MlflowClient(self.uri)

    def _remember(self, **changes) -> None:
        with self._lock:
            self._state |= changes
            write_json(self._path, self._state)


class _Lines:
    """A file of JSON lines: one thread appends, another takes from the first line that was not sent.

    Args: sent, how many lines of an existing file were sent. Attributes: last, the newest line.
    """

    def __init__(self, path: Path, sent: int):
        self._path = path
        path.touch()
        lines = whole_lines(path)
        self.last: dict | None = json.loads(lines[-1]) if lines else None
        self._sent, self._offset = sent, sum(map(len, lines[:sent]))
        self._sizes: list[int] = []

    def append(self, entry: dict) -> None:
        self.last = entry
        with open(self._path, "ab") as f:
            f.write(json.dumps(entry).encode() + b"\n")

    def unsent(self, most: int) -> list[dict]:
        """The next lines that were not sent."""
        with open(self._path, "rb") as f:
            f.seek(self._offset)
            lines = [line for line in itertools.islice(f, most) if line.endswith(b"\n")]
        self._sizes = [len(line) for line in lines]
        return [json.loads(line) for line in lines]

    def sent(self, count: int) -> int:
        """The first `count` of the lines that `unsent` gave were sent; how many that makes in all."""
        self._sent += count
        self._offset += sum(self._sizes[:count])
        return self._sent


def catch_up(folder: str | Path, uri: str) -> bool:
    """Whether the folder's run has ended; sends what MLflow has not seen of it."""
    path = Path(folder) / "run.json"
    state = read_json(path) if path.is_file() else {"ended": None}
    if state["ended"] and state["seen"] != state["ended"]:
        Run(folder, state["experiment"], state["name"], uri).close(state["ended"])
    return state["ended"] is not None


def register(client, uri: str, run_id: str, model: str, location: str, alias: str) -> None:
    """A version of a registered model that points to where it lies, and the alias that means it; said twice, done once.

    A server takes no path of ours as a source: there the source is the run's folder `model`, and the tag `location`
    says where the weights are. A registry that refuses is reported, and left alone.
    """
    from mlflow.exceptions import MlflowException

    source = f"runs:/{run_id}/model" if uri.startswith("http") else location
    try:
        with contextlib.suppress(MlflowException):  # it exists
            client.create_registered_model(model)
        same = [v for v in client.search_model_versions(f"name='{model}'") if v.run_id == run_id]
        version = same[0] if same else client.create_model_version(model, source, run_id, {"location": location})
        client.set_registered_model_alias(model, alias, version.version)
    except MlflowException as error:
        if error.get_http_status_code() not in range(400, 500):
            raise  # away: again later
        log.warning("MLflow's registry refuses %s as %s@%s: %s", location, model, alias, error)


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


def dataset(name: str, source: str, digest: str, context: str, profile: dict[str, float] | None = None) -> dict:
    """A data set that a run read or made, for MLflow: its name, where it is, the digest of its content, what it is to
    the run (such as source or curated), and a few numbers."""
    where, numbers = json.dumps({"uri": source}), json.dumps(profile or {})
    return {"name": name, "digest": digest, "source": where, "profile": numbers, "context": context}


def _dataset_input(context: str, **fields: str):
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(Dataset(source_type="local", **fields), [InputTag("mlflow.data.context", context)])


def log_outcome(
    output: str | Path,
    experiment: str,
    params: dict[str, Any],
    metrics: dict[str, float],
    artifacts: list[Path],
    datasets: Sequence[dict[str, str]] = (),
) -> None:
    """What a job without steps came to, as one run; logged once per output folder, however often the job is run."""
    folder, uri = Path(output) / "tracking", store_beside(output)
    if catch_up(folder, uri):
        return
    about = {"params": params, "tags": git_state(), "datasets": datasets}
    run = Run(folder, experiment_name(experiment), Path(output).name, uri=uri, **about)
    run.metrics(0, metrics)
    for path in artifacts:
        run.artifact(path)
    run.close()
