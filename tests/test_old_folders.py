"""Output folders that version 0.1.0 wrote are still read: curation, its store, latents, a checkpoint, a model.

tests/data/written_by_0.1.0.tar.gz was made before the modules moved into their rooms: the demo's curation without its
report, random latents of two buckets, training on them stopped after step 3 of 4, and the model of an undisturbed run.
"""

import json
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

import lingen
from data_prep.encode.job import read_clips
from data_prep.measure.examine import ExamineConfig
from data_prep.measure.run import open_stores
from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import read_manifest, require_manifest
from lingen.model.denoiser import DenoiserConfig
from lingen.train.config import FitConfig
from lingen.train.stage import Hooks, fit

ARCHIVE = Path(__file__).parent / "data" / "written_by_0.1.0.tar.gz"


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_curation(old):
    summary = json.loads((old / "curated" / "summary.json").read_text())
    assert len(read_clips(old / "curated" / "clips.parquet")) == summary["kept"] == 43
    ledger = pq.read_table(old / "curated" / "ledger.parquet", filters=[("stage", "=", "final")])
    assert Counter(ledger["verdict"].to_pylist()) == {
        "keep": summary["kept"],
        "drop": summary["dropped"],
        "error": summary["errors"],
    }
    assert read_manifest(old / "curated")["job"] == "curate"


def test_measurements_still_stand_for_the_default_settings(old):
    """The folder's name is a digest of the settings: another one would measure every clip again."""
    files, signals, _ = open_stores(old / "curated.store", ExamineConfig())
    assert files.table().num_rows == 47
    assert set(files.table()["content_hash"].to_pylist()) >= set(signals.table()["key"].to_pylist())
    assert signals.table().num_rows == 47


def test_latents(old):
    require_manifest(old / "latents", "encode", "--shards")
    shards = ShardIndex.open(old / "latents")
    assert {name: len(bucket) for name, bucket in shards.buckets.items()} == {"image_32x32": 3, "video_32x32_8f": 3}
    for bucket in shards.buckets.values():
        for row in range(len(bucket)):
            latent, text = bucket.read(row)  # proves the checksums
            assert latent.shape == bucket.latent_shape
            assert text[0].shape[1] == shards.text_dims[0]


def test_a_stopped_run_goes_on_along_its_curve(old):
    expected = json.loads((old / "expected.json").read_text())
    losses = {}
    hooks = Hooks(log=lambda step, metrics: losses.update({step: metrics["loss"]}))
    architecture = DenoiserConfig.from_dict(expected["architecture"])
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, _, finished = fit(
            FitConfig(**expected["fit"]), architecture, ShardIndex.open(old / "latents"), old / "run", hooks=hooks
        )
        weights = {name: p.detach().full_tensor() for name, p in model.named_parameters()}
    finally:
        dist.destroy_process_group()
    assert finished
    assert losses == {4: pytest.approx(expected["losses"]["4"], rel=1e-5)}, "resumed after step 3, not from the start"
    whole = lingen.load(old / "model_run", weights="raw")
    for name, p in whole.named_parameters():
        torch.testing.assert_close(weights[name], p, rtol=1e-4, atol=1e-5)
