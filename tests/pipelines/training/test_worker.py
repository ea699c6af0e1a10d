"""A worker of a stage, in this process: what it exports, shows and records."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import lingen
from lingen.data.synthetic import write_random_encoding
from lingen.generate.sampler import SamplerConfig
from lingen.io.manifest import OutputFolder
from lingen.train.config import FitConfig
from lingen.train.observers.observer import Step
from pipelines.ray_train import TRACKING, TrainWorkers
from pipelines.training.config import TrainConfig
from pipelines.training.prepare import prepare
from pipelines.training.stage import _task
from pipelines.training.worker import SAMPLES, Preview, SampleRecord, train_worker

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture
def task(tmp_path, store):
    config = TrainConfig(
        stage="demo_t2i_64p",
        shards=write_random_encoding(tmp_path / "shards", {"image_64x64": 6}),
        output=tmp_path / "run",
        fit=FitConfig(steps=3, batch_size=2, held_out=0.0, log_every=1, warmup=1),
        sampler=SamplerConfig(steps=1, guidance=1.0),
        workers=TrainWorkers(threads=torch.get_num_threads()),
        mlflow=store,
        record_samples=True,
    )
    prepared = prepare(config)
    return _task(prepared, OutputFolder.open(config.output, "train", prepared.content, prepared.inputs))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_finished_worker_has_exported_a_model_shown_samples_and_recorded_its_batches(task, store):
    mlflow = pytest.importorskip("mlflow")
    assert train_worker(task)
    output = task.config.output
    assert lingen.load(output).config == task.architecture
    assert json.loads((output / "model" / "config.json").read_text())["prompts"] == ["caption 0", "caption 1"]
    steps = read_lines(output / SAMPLES / "00000.jsonl")
    assert [(line["step"], line["place"], len(line["keys"])) for line in steps] == [(s, 0, 2) for s in (1, 2, 3)]
    metrics = read_lines(output / TRACKING / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3]
    assert all(0 < line["metrics"]["goodput_pct"] <= 100 for line in metrics)
    state = json.loads((output / TRACKING / "run.json").read_text())
    assert (state["ended"], state["seen"], state["lines_sent"]) == ("FINISHED", "FINISHED", 3)
    assert (output / TRACKING / "samples" / "image_00000003.png").is_file()
    version = mlflow.MlflowClient(store).get_model_version_by_alias("lingen-demo", "demo_t2i_64p")
    assert version.source == str(output / "model")


def test_a_worker_that_is_asked_to_stop_exports_nothing_and_its_run_is_killed(task):
    (task.config.output / "stop").touch()
    assert not train_worker(task)
    assert not (task.config.output / "model").exists()
    assert json.loads((task.config.output / TRACKING / "run.json").read_text())["ended"] == "KILLED"


def test_a_worker_that_fails_says_so_in_its_run(task):
    broken = dataclasses.replace(task, clips=["not-encoded"])
    with pytest.raises(ValueError, match="reviewed set"):
        train_worker(broken)
    assert json.loads((task.config.output / TRACKING / "run.json").read_text())["ended"] == "FAILED"


def test_samples_are_drawn_by_every_rank_from_the_same_noise_and_logged_by_the_first(task):
    logged = []

    class Run:
        def video(self, name, step, videos, fps):
            logged.append((name, step, videos, fps))

    class Still(torch.nn.Linear):
        """No velocity: what is decoded is the noise."""

        def forward(self, x, t, text):
            return torch.zeros_like(x)

    first, other = Preview(task, Run()), Preview(task, None)
    for step in (5, 9):
        first(step, Still(1, 1))
        other(step, Still(1, 1))
    (name, _, before, _), (_, step, after, fps) = logged
    assert (name, step, fps) == ("image", 9, 16.0)
    assert [video.shape for video in after] == 2 * [(1, 64, 64, 3)], "one for each prompt"
    assert all(np.array_equal(a, b) for a, b in zip(before, after))


def test_a_step_repeated_after_a_restart_is_recorded_twice(tmp_path):
    for _ in range(2):
        record = SampleRecord(tmp_path / "samples" / "00001.jsonl")
        step = Step(4, last=False)
        step.batch = type("Batch", (), {"places": range(3, 5), "keys": ["a", "b"]})
        record.before_step(step)
    line = {"step": 5, "place": 3, "keys": ["a", "b"]}
    assert read_lines(tmp_path / "samples" / "00001.jsonl") == [line, line]
