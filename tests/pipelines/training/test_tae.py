"""Training the TAE in the driver and in a worker, on pixels that are there. Ray and decoding are replaced."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.encode.pixels import PixelConfig, PixelSegment
from lingen.io.manifest import OutputFolder, read_manifest
from lingen.tae.pretrained import load_tae
from lingen.train.tae import TAEFitConfig
from pipelines.cli import Preempted
from pipelines.ray_train import TRACKING, TrainWorkers
from pipelines.training import tae
from pipelines.training.tae import TrainTAEConfig, train_tae

pytestmark = pytest.mark.usefixtures("process_group")
SEGMENTS = [
    PixelSegment(key=f"{media}{i}", clip_id=f"{media}{i}", source=str(i), media=media, held_out=i == 2)
    for media in ("video", "image")
    for i in range(3)
]


@pytest.fixture
def config(tmp_path, store):
    curated = OutputFolder.open(tmp_path / "curated", "curate", {}, {})
    pq.write_table(pa.table({"clip_id": ["x"]}), curated.path / "clips.parquet")
    curated.publish({})
    fit = TAEFitConfig(preset="tae_tiny", steps=2, batch_size=2, crop=32, frames=8, log_every=1, validate_every=2)
    return TrainTAEConfig(
        curated=curated.path,
        output=tmp_path / "tae",
        pixels=PixelConfig(resolution=32, frames=8),
        fit=fit,
        workers=TrainWorkers(threads=torch.get_num_threads()),
        mlflow=store,
    )


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """The worker runs in this process; the clips are decoded to noise."""

    def write_pixels(clips, folder, config):
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        for segment in SEGMENTS:
            frames = config.frames if segment.media == "video" else 1
            np.save(folder / f"{segment.key}.npy", rng.integers(0, 256, (frames, 32, 32, 3), np.uint8))
        return SEGMENTS, [{"key": "gone", "reason": "unreadable"}]

    monkeypatch.setattr(tae, "write_pixels", write_pixels)
    monkeypatch.setattr(tae, "read_clips", lambda path: [])
    monkeypatch.setattr(tae, "connect", lambda: None)
    monkeypatch.setattr(tae, "run_workers", lambda function, task, workers, folder, progress: function(task))


def test_a_tae_is_trained_published_and_then_left_alone(config):
    manifest = train_tae(config)
    outputs = manifest["outputs"]
    assert outputs["tae"] == load_tae(config.output).digest
    assert (outputs["windows"], outputs["unreadable"]) == (6, 1)
    assert outputs["held_out"].keys() == {"psnr", "ssim", "gain_over_mean_colour", "smallest_gain"}
    state = json.loads((config.output / TRACKING / "run.json").read_text())
    assert (state["seen"], state["params"]["windows"], state["params"]["held_out"]) == ("FINISHED", "6", "2")
    lines = [json.loads(x) for x in (config.output / TRACKING / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert (config.output / TRACKING / "samples" / "reconstruction_00000002.png").is_file()
    assert train_tae(config) == read_manifest(config.output) == manifest


def test_asked_to_stop_it_saves_and_the_same_command_finishes(config, monkeypatch):
    run_workers = tae.run_workers

    def stop_at_once(function, task, workers, folder, progress):
        (folder.path / "stop").touch()
        try:
            return run_workers(function, task, workers, folder, progress)
        finally:
            (folder.path / "stop").unlink()

    monkeypatch.setattr(tae, "run_workers", stop_at_once)
    with pytest.raises(Preempted, match="the same command continues from there"):
        train_tae(config)
    assert [p.name for p in (config.output / "checkpoints").iterdir()] == ["step_00000001"]
    assert read_manifest(config.output) is None
    monkeypatch.setattr(tae, "run_workers", run_workers)
    assert train_tae(config)["outputs"]["held_out"]


def test_a_batch_that_the_workers_cannot_share_is_named(config):
    with pytest.raises(ValueError, match=r"--workers\.count: 3 does not divide the batch of 2 segments"):
        train_tae(dataclasses.replace(config, workers=TrainWorkers(count=3)))
