"""Ray Train: a function on several workers with a process group between them, restarted when one is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from data_prep.ray_cluster import connect, environment, one_machine, own_handler
from lingen.io.manifest import OutputFolder
from lingen.io.progress import Progress
from lingen.train.observers.preemption import Notice, clear_stop_file, on_sigterm
from pipelines.cli import quiet_libraries, raised_by_us

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from ray.train.torch import TorchTrainer

log = logging.getLogger(__name__)

TRACKING = "tracking"

ON_ONE_MACHINE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
"""Ray Train's settings where no node can be lost: nobody watches for that, and a short stage waits less for its end"""
WITHOUT_USE = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
"""callbacks of Ray Train that each start a process: for data sets of Ray Data, which we have none of; and for what a
lost controller leaves behind on a cluster that goes on, which one machine's does not"""

Config = TypeVar("Config", bound="DataclassInstance")
Task = TypeVar("Task")
Result = TypeVar("Result")


class Refused(Exception):
    """A worker found something that the user has to correct: workers started again would find it again."""


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
        ValueError: `function` raised one of ours on a worker; nothing is tried again.
        RuntimeError: workers failed more than workers.max_failures times; carries the last error.
    """
    stop = clear_stop_file(folder.path)
    connect()
    from ray import cloudpickle
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    alone = one_machine()
    trainer = _trainer_class(lean=alone)(
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
    own = {name: value for name, value in ON_ONE_MACHINE.items() if alone and name not in os.environ}
    with _following(metrics_file(folder.path), progress), on_sigterm(lambda: _request_stop(stop)), environment(own):
        return _fit(trainer)


def _fit(trainer: TorchTrainer) -> Any:
    """What rank 0 returns; raises as `run_workers` does."""
    from ray.train import WorkerGroupError

    try:
        with own_handler(signal.SIGINT):
            result = trainer.fit()
    except WorkerGroupError as failure:
        if refused := [error for error in failure.worker_failures.values() if isinstance(error, Refused)]:
            raise ValueError(str(refused[0])) from None
        raise
    if result.error is not None:
        raise RuntimeError(f"training failed: {result.error}")
    return result.return_value  # type: ignore[attr-defined]


def _trainer_class(lean: bool) -> type[TorchTrainer]:
    """Ray Train's trainer, which gives up at the first `Refused`; a lean one has none of the callbacks WITHOUT_USE.

    Ray has no settings for these. In a version that chooses its callbacks or its policy elsewhere, it is Ray's own.
    """
    from ray.train import torch as ray_torch

    base: Any = ray_torch.TorchTrainer  # mypy sees the first version of Ray Train's API

    class StageTrainer(base):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [c for c in callbacks if not lean or type(c).__name__ not in WITHOUT_USE]

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            policy = _failure_policy(self.run_config.failure_config)
            return super()._initialize_and_run_controller(**arguments | {"failure_policy": policy})

    return StageTrainer


def _worker_count(workers: TrainWorkers) -> int | tuple[int, int]:
    """A fixed number, or the fewest and the most."""
    return (workers.min, workers.count) if 0 < workers.min < workers.count else workers.count


def _call(config: dict[str, bytes]) -> Any:
    from ray import cloudpickle

    function, task = cloudpickle.loads(config["call"])
    try:
        return function(task)
    except ValueError as error:
        if raised_by_us(error):
            raise Refused(str(error)) from error
        raise


def _failure_policy(config: Any) -> Any:
    """Ray Train's own policy for a FailureConfig, except that it gives up at the first `Refused`."""
    from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

    class Policy(DefaultFailurePolicy):  # local, and so pickled by value: the controller needs none of our modules
        def make_decision(self, training_failed_error: Any) -> FailureDecision:
            failures = getattr(training_failed_error, "worker_failures", {})
            if any(type(error).__name__ == refused for error in failures.values()):
                return FailureDecision.RAISE
            return super().make_decision(training_failed_error)

    refused = Refused.__name__
    return Policy(config)


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
