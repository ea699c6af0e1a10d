"""Ray Train around a function: settings, progress from the metrics file, notices of lost nodes; two real workers."""

import dataclasses
import io
import json
import os
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import cloudpickle

from data_prep.ray_cluster import shared_cluster
from lingen.io.manifest import OutputFolder
from lingen.io.progress import Progress
from lingen.train.observers.preemption import Notice
from pipelines import ray_train
from pipelines.cli import raised_by_us
from pipelines.ray_train import (
    ON_ONE_MACHINE,
    DrainNotice,
    Refused,
    TrainWorkers,
    absolute_paths,
    metrics_file,
    run_workers,
)


@pytest.mark.parametrize("bad", [{"count": 0}, {"threads": 0}, {"min": 3}, {"min": -1}])
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=f"--workers.{next(iter(bad))}"):
        TrainWorkers(**{"count": 2} | bad)


@pytest.mark.parametrize(("fewest", "expected"), [(0, 4), (2, (2, 4)), (4, 4)])
def test_the_number_of_workers_is_fixed_unless_fewer_are_allowed(fewest, expected):
    assert ray_train._worker_count(TrainWorkers(count=4, min=fewest)) == expected


def test_paths_become_absolute_and_all_else_stays(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Config:
        output: Path
        init: Path | None
        name: str

    monkeypatch.chdir(tmp_path)
    assert absolute_paths(Config(Path("out"), None, "out")) == Config(tmp_path / "out", None, "out")


def test_progress_follows_the_last_whole_line_of_the_metrics(tmp_path):
    path = metrics_file(tmp_path)
    path.parent.mkdir()
    progress = Progress("stage", 100, unit="steps", stream=io.StringIO())
    with ray_train._following(path, progress):
        lines = [{"step": step, "metrics": {"loss": 1.0, "padding": "x" * 1000}} for step in range(1, 41)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "met')
    assert progress.done == 40
    with ray_train._following(path, Progress("again", 100, unit="steps", stream=io.StringIO())):
        assert progress.done == 40


def test_a_folder_named_stop_is_found_before_any_worker_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_train, "connect", lambda: pytest.fail("too late"))
    folder = OutputFolder.open(tmp_path / "run", "train", {}, {})
    (folder.path / "stop").mkdir()
    with pytest.raises(ValueError, match="stop is a folder"):
        run_workers(str, "", TrainWorkers(), folder, Progress("stage", 1, stream=io.StringIO()))


def test_a_node_that_will_be_lost_asks_for_one_checkpoint(monkeypatch):
    import ray.train

    lost: list[str] = []
    info = SimpleNamespace(preempted_node_ids=lost)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: info if lost else None, raising=False)
    notice = DrainNotice()
    assert notice() == Notice.NONE
    lost.append("node 1")
    assert [notice(), notice()] == [Notice.SAVE, Notice.NONE]
    info.preempted_node_ids = ["node 1", "node 2"]
    assert [notice(), notice()] == [Notice.SAVE, Notice.NONE]


def call(function, task):
    return ray_train._call({"call": cloudpickle.dumps((function, task))})


def test_only_what_the_user_must_correct_is_told_from_what_another_try_may_mend():
    with pytest.raises(Refused, match=r"^--workers\.count: need at least one worker, got 0$"):
        call(lambda count: TrainWorkers(count=count), 0)
    with pytest.raises(json.JSONDecodeError):
        call(json.loads, "half a fi")
    assert call(json.loads, "3") == 3


def test_ray_train_gives_up_at_once_for_that_alone():
    from ray.train import FailureConfig, WorkerGroupError
    from ray.train.v2._internal.execution.failure_handling import FailureDecision

    policy = pickle.loads(cloudpickle.dumps(ray_train._failure_policy(FailureConfig(max_failures=2))))
    lost = WorkerGroupError("", {0: RuntimeError("lost")})
    refused = WorkerGroupError("", {0: RuntimeError("its peer is gone"), 1: Refused("--fit.batch_size")})
    assert policy.make_decision(lost) == policy.make_decision(lost) == FailureDecision.RETRY
    assert policy.make_decision(lost) == FailureDecision.RAISE
    assert ray_train._failure_policy(FailureConfig(max_failures=2)).make_decision(refused) == FailureDecision.RAISE


@dataclasses.dataclass(frozen=True)
class Addition:
    numbers: list[int]


@pytest.mark.slow
def test_every_worker_gets_the_task_and_the_first_ones_result_comes_back(tmp_path):
    def add(task: Addition) -> list[int]:
        import torch
        import torch.distributed as dist

        total = torch.tensor(sum(task.numbers) + dist.get_rank())
        dist.all_reduce(total)
        return [dist.get_rank(), dist.get_world_size(), total.item()]

    folder = OutputFolder.open(tmp_path / "out", "train", {}, {})
    (folder.path / "stop").touch()
    progress = Progress("add", 1, stream=io.StringIO())
    ctrl_c = signal.getsignal(signal.SIGINT)
    with shared_cluster():
        assert run_workers(add, Addition([3, 4]), TrainWorkers(count=2, cpus=0.5), folder, progress) == [0, 2, 15]
        started = {actor["ActorClassName"] for actor in ray._private.state.actors().values()}
    assert not (folder.path / "stop").exists(), "an old request to stop is forgotten"
    assert "RayTrainWorker" in started
    assert not started & {"DatasetManager", "PlacementGroupCleaner", "PreemptionWatcher"}, "each is a process to start"
    assert signal.getsignal(signal.SIGINT) is ctrl_c, "Ctrl-C is not Ray Train's any more"
    assert not os.environ.keys() & ON_ONE_MACHINE.keys(), "another cluster's stages have Ray Train's own settings"


@pytest.mark.slow
def test_what_the_user_must_correct_ends_training_at_once(tmp_path):
    """Restarts are for lost workers; a library's ValueError may be one's last sign."""

    def train(task: Path) -> None:
        import torch.distributed as dist

        with open(task / "starts", "a") as starts:
            starts.write("x")
        if dist.get_rank() == 1:
            TrainWorkers(count=0)
        dist.barrier()  # of one rank alone: it is not waited for

    folder = OutputFolder.open(tmp_path / "out", "train", {}, {})
    progress = Progress("refuse", 1, stream=io.StringIO())
    with (
        shared_cluster(),
        pytest.raises(ValueError, match=r"^--workers\.count: need at least one worker, got 0$") as error,
    ):
        run_workers(train, tmp_path, TrainWorkers(count=2, cpus=0.5), folder, progress)
    assert raised_by_us(error.value), "the command line then prints this one line and exits with 2"
    assert len((tmp_path / "starts").read_text()) == 2
