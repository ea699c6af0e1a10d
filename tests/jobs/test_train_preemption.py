"""SIGTERM to a real jobs/train.py: saved, exit 75, and training goes on from there along the same curve.

That the same command goes on is in tests/pipelines/training/test_stage_survival.py; here the rest runs in this process.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from lingen.data.synthetic import write_random_encoding
from lingen.train.stage import Hooks, fit
from pipelines.recipes import find_stage
from pipelines.training.prepare import select_shards, stage_architecture

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STAGE = "demo_t2i_64p"
FIT = {"steps": 60, "batch_size": 2, "log_every": 1, "checkpoint_every": 1000, "warmup": 1}


def here(shards, output):
    """{step: loss} of the same training in this process alone; goes on from the checkpoints in `output`."""
    curve = {}
    stage = find_stage(STAGE)[1]
    index = select_shards(shards, stage)
    config = dataclasses.replace(stage.fit, **FIT, validate_every=0)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        hooks = Hooks(log=lambda step, metrics: curve.update({step: metrics["loss"]}))
        fit(config, stage_architecture(stage, index, None), index, output, hooks=hooks)
    finally:
        dist.destroy_process_group()
    return curve


def test_sigterm_saves_at_a_step_from_where_training_goes_on(tmp_path, ray_cluster):
    shards = write_random_encoding(tmp_path / "shards", {"image_64x64": 8})
    flags = [f"--fit.{name.replace('_', '-')}={value}" for name, value in FIT.items()]
    command = [sys.executable, ROOT / "jobs" / "train.py", "--stage", STAGE, "--shards", shards]
    command += ["--output", tmp_path / "run", "--workers.count=2", "--workers.cpus=0.5", "--fit.validate-every=0"]
    command += flags
    metrics = tmp_path / "run" / "tracking" / "metrics.jsonl"
    environment = os.environ | ray_cluster | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
        time.sleep(0.05)
        assert process.poll() is None, process.stdout.read()
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 75, output
    assert "preempted: training is saved" in output
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert 2 <= int(saved.name.removeprefix("step_")) < FIT["steps"], "at the step boundary, not at the end"
    assert not (tmp_path / "run" / "manifest.json").exists()

    curve = {e["step"]: e["metrics"]["loss"] for e in map(json.loads, metrics.read_text().splitlines())}
    assert max(curve) == int(saved.name.removeprefix("step_")), "every step that counts was reported"
    curve |= here(shards, tmp_path / "run")
    expected = here(shards, tmp_path / "undisturbed")
    assert list(curve) == list(expected) == list(range(1, FIT["steps"] + 1)), "every step once, in order"
    for step, loss in expected.items():
        assert curve[step] == pytest.approx(loss, rel=1e-5), step
