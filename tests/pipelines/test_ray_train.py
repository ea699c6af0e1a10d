"""Ray Train around a function: settings, progress from the metrics file, notices of lost nodes; two real workers."""

import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep.ray_cluster import shared_cluster
from lingen.io.manifest import OutputFolder
from lingen.io.progress import Progress
from lingen.train.observers.preemption import Notice
from pipelines import ray_train
from pipelines.ray_train import DrainNotice, TrainWorkers, absolute_paths, metrics_file, run_workers


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
    with shared_cluster():
        assert run_workers(add, Addition([3, 4]), TrainWorkers(count=2, cpus=0.5), folder, progress) == [0, 2, 15]
    assert not (folder.path / "stop").exists(), "an old request to stop is forgotten"
