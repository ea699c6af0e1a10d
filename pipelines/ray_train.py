"""Ray Train: a function on several workers with a process group between them, restarted when one is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from data_prep.ray_cluster import connect
from lingen.io.manifest import OutputFolder
from lingen.io.progress import Progress
from lingen.train.observers.preemption import Notice, clear_stop_file, on_sigterm
from pipelines.cli import quiet_libraries

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = logging.getLogger(__name__)

TRACKING = "tracking"

Config = TypeVar("Config", bound="DataclassInstance")
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainWorkers:
    """How many workers train, and their resources. The loss curve does not depend on it."""

    count: int = 1
    """workers; the global batch is divided among them"""
    min: int = 0
    """fewest workers to train with while nodes are missing: training starts and continues with as many as fit, up to
    count; 0: always count"""
    resize_after: float = 600.0
    """seconds between checks whether more workers fit again; growing goes back to the newest checkpoint"""
    cpus: float = 1
    """CPUs that Ray reserves for each worker"""
    gpus: float = 0
    """GPUs of each worker; 0 trains on the CPU"""
    threads: int = 1
    """torch threads of each worker on the CPU; more only slow small models down"""
    max_failures: int = 3
    """restarts after a lost worker before the job gives up"""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"--workers.count: need at least one worker, got {self.count}")
        if self.threads < 1:
            raise ValueError(f"--workers.threads: need at least one, got {self.threads}")
        if not 0 <= self.min <= self.count:
            raise ValueError(f"--workers.min: must be 0 to --workers.count ({self.count}), got {self.min}")


def run_workers(
    function: Callable[[Task], Result],
    task: Task,
    workers: TrainWorkers,
    folder: OutputFolder,
    progress: Progress,
    timeout_s: float = 1800.0,
) -> Result:
    """Call function(task) on every worker.

    SIGTERM creates the stop file in the job's output (lingen/train/observers/preemption.py); `function` looks for it.

    Args:
        folder: the job's output.
        progress: follows the steps in the metrics file that rank 0 writes.
        timeout_s: how long workers wait for each other in a collective.

    Returns:
        Rank 0's result, when all workers are done.

    Raises:
        RuntimeError: workers failed more than workers.max_failures times; carries the last error.
    """
    stop = clear_stop_file(folder.path)
    connect()
    from ray import cloudpickle
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _call,
        # As bytes: Ray Train's controller passes it on, and would import all of training to unpickle it.
        train_loop_config={"call": cloudpickle.dumps((function, task))},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # mypy sees the first version of Ray Train's API
            num_workers=_worker_count(workers),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=workers.resize_after,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo", timeout_s=int(timeout_s) or 1),
        run_config=RunConfig(
            name=f"{folder.job}-{folder.key}",  # Ray Train resumes by name, and other settings must not
            storage_path=str((folder.path / "ray").resolve()),
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )
    with _following(metrics_file(folder.path), progress), on_sigterm(lambda: _request_stop(stop)):
        result = trainer.fit()
    if result.error is not None:
        raise RuntimeError(f"training failed: {result.error}")
    return result.return_value  # type: ignore[attr-defined]


def _worker_count(workers: TrainWorkers) -> int | tuple[int, int]:
    """A fixed number, or the fewest and the most."""
    return (workers.min, workers.count) if 0 < workers.min < workers.count else workers.count


def _call(config: dict[str, bytes]) -> Any:
    from ray import cloudpickle

    function, task = cloudpickle.loads(config["call"])
    return function(task)


def _request_stop(stop: Path) -> None:
    log.warning("SIGTERM: training saves and ends at its next step; a second one ends it at once")
    stop.touch()


class DrainNotice:
    """Asks Ray Train whether it will lose a node; called by all ranks at the same step.

    Each new node means one checkpoint now: training continues until the node is gone, then Ray Train starts the workers
    again elsewhere, and they resume from it.
    """

    def __init__(self) -> None:
        self._known: list[str] = []

    def __call__(self) -> Notice:
        import ray.train

        info = ray.train.get_preemption_info()
        nodes = info.preempted_node_ids if info else []
        new, self._known = set(nodes) - set(self._known), nodes
        return Notice.SAVE if new else Notice.NONE


def metrics_file(output: Path) -> Path:
    """Where rank 0 writes metrics (pipelines.tracking) and the driver reads the progress."""
    return output / TRACKING / "metrics.jsonl"


@contextlib.contextmanager
def _following(path: Path, progress: Progress) -> Iterator[None]:
    """Follow the metrics file inside the block: workers' output stays in Ray's logs, the user sees this one line."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(1.0):
            _advance(path, progress)

    _advance(path, progress)
    progress.resumed()
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _advance(path, progress)
        progress.close()


def _advance(path: Path, progress: Progress) -> None:
    for line in reversed(_last_lines(path)):
        with contextlib.suppress(json.JSONDecodeError):  # being written
            entry = json.loads(line)
            loss = next((v for k, v in entry["metrics"].items() if k in ("loss", "l1")), None)
            progress.update(entry["step"] - progress.done, note="" if loss is None else f"loss {loss:.4f}")
            return
    progress.update(0, note="workers are starting")


def _last_lines(path: Path, size: int = 1 << 14) -> list[bytes]:
    """The end of the file only: after weeks of training the whole would be megabytes, every second."""
    if not path.is_file():
        return []
    with open(path, "rb") as f:
        f.seek(max(0, path.stat().st_size - size))
        return f.read().splitlines()


def absolute_paths(config: Config) -> Config:
    """The configuration with absolute paths: Ray Train's workers run in another working folder."""
    values = ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    return dataclasses.replace(config, **{name: v.absolute() for name, v in values if isinstance(v, Path)})


def prepare_worker(workers: TrainWorkers) -> None:
    """Set up logging and torch threads of a worker process; called first."""
    quiet_libraries()
    torch.set_num_threads(workers.threads)
