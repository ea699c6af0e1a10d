"""A stage in the driver: the workers' task, what is published, what a finished folder does. Ray is replaced."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from lingen.data.synthetic import write_random_encoding
from lingen.io.manifest import read_manifest
from lingen.train.config import FitConfig
from pipelines.cli import Preempted
from pipelines.ray_train import metrics_file
from pipelines.training import stage
from pipelines.training.config import TrainConfig
from pipelines.training.prompts import PROMPTS, read_prompts
from pipelines.training.stage import train


@pytest.fixture
def config(tmp_path, store):
    shards = write_random_encoding(tmp_path / "shards", {"image_64x64": 6})
    fit = FitConfig(steps=3, batch_size=2, held_out=0.0)
    return TrainConfig(stage="demo_t2i_64p", shards=shards, output=tmp_path / "run", fit=fit, mlflow=store)


@pytest.fixture
def tasks(monkeypatch):
    """The tasks of the workers, who finish at once unless told otherwise: tasks.finished = False."""

    class Tasks(list):
        finished = True

    found = Tasks()

    def run_workers(function, task, workers, folder, progress, timeout_s):
        assert function is stage.train_worker
        assert timeout_s == task.config.fit.hang_timeout
        found.append(task)
        metrics_file(folder.path).parent.mkdir(exist_ok=True)
        lines = [{"step": s, "metrics": {"loss": 4.0 - s}} for s in (1, 2, 3)]
        metrics_file(folder.path).write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder.path / "model").mkdir(exist_ok=True)
        save_file({"x": torch.zeros(1)}, folder.path / "model" / "ema.safetensors")
        return found.finished

    monkeypatch.setattr(stage, "run_workers", run_workers)
    return found


def test_a_stage_is_published_once_and_then_left_alone(config, tasks):
    manifest = train(config)
    assert manifest["outputs"] | {"model": None} == {
        "model": None,
        "steps": 3,
        "loss": {"loss": [2.5, 1.5]},
        "positions": {"before": None, "after": tasks[0].architecture.position_sizes},
        "checkpoint": "checkpoints/step_00000003",
    }
    again = train(config)
    assert again == read_manifest(config.output)
    assert again["key"] == manifest["key"]
    assert len(tasks) == 1
    changed = dataclasses.replace(config, fit=dataclasses.replace(config.fit, lr=1.0))
    with pytest.raises(ValueError, match=r"--output: .* other settings \(fit.lr: "):
        train(changed)


def test_the_task_has_all_that_workers_need(config, tasks):
    train(config)
    (task,) = tasks
    assert task.about["bucket"] == "image_64x64"
    assert list(task.about["prompts"]) == ["caption 0", "caption 1"]
    assert task.tae == (config.shards / "tae").resolve()
    ((embedding, mask),) = read_prompts(config.output / PROMPTS)
    assert embedding.shape[0] == mask.shape[0] == 2
    assert (task.run["experiment"], task.run["name"], task.run["uri"]) == ("lingen-demo", "demo_t2i_64p", config.mlflow)
    assert task.run["params"]["fit.steps"] == 3
    assert task.run["params"]["data.image_64x64"] == 6
    assert task.run["datasets"][0]["context"] == "training"


def test_asked_to_stop_it_is_not_published_and_the_first_start_stays(config, tasks):
    tasks.finished = False
    with pytest.raises(Preempted, match="the same command continues from there"):
        train(config)
    assert read_manifest(config.output) is None
    tasks.finished = True
    train(config)
    assert tasks[0].first_start == tasks[1].first_start
