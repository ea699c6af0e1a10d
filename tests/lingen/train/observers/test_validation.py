"""Validation on real processes with gloo."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from lingen.data.selection import select
from lingen.train.ema import EMA
from lingen.train.observers.validation import Validation

SCRIPT = """
import json, sys
import torch, torch.distributed as dist
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.data.selection import select
from lingen.data.shard_index import ShardIndex
from lingen.train.config import FitConfig
from lingen.train.sharding import shard
from lingen.train.observers.validation import Validation
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
dist.init_process_group("gloo")
torch.manual_seed(0)
model = Denoiser(DenoiserConfig(width=32, depth=2, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6),
                                position_sizes=(4, 4, 4)))
for p in model.parameters():
    torch.nn.init.normal_(p, std=0.1)
shard(model, FitConfig())
out = select(ShardIndex.open(sys.argv[1]), 0.25)[1]
found = {n: Validation(out, 5, levels=4, micro_batch=n)(model, torch.device("cpu")) for n in (0, 3)}
if dist.get_rank() == 0:
    print(json.dumps(found))
dist.destroy_process_group()
"""


def validate_on(workers, folder):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    processes = []
    for rank in range(workers):
        ranks = {"RANK": str(rank), "WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", SCRIPT, str(folder)]
        processes.append(
            subprocess.Popen(
                command,
                env=os.environ | ranks | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    done = [p.communicate(timeout=300) for p in processes]
    assert all(p.returncode == 0 for p in processes), done[0][1][-2000:]
    return json.loads(done[0][0])


def test_the_same_numbers_to_the_bit_on_one_worker_and_on_three(shards):
    alone, shared = validate_on(1, shards.folder), validate_on(3, shards.folder)
    assert alone == shared
    values = alone["0"]
    assert set(values) == {"val/loss", "val/image", *(f"val/t{i}" for i in range(4))}
    assert len(set(values.values())) == 6
    assert values["val/loss"] == pytest.approx(np.mean([values[f"val/t{i}"] for i in range(4)]))
    assert alone["3"] == pytest.approx(values, rel=1e-5)


def test_a_damaged_held_out_sample_is_left_out_and_named(shards, caplog):
    _, out = select(shards, 0.25)
    rows = out.buckets["image_64x64"].table.select(["key", "shard", "offset"]).to_pylist()
    with open(f"{shards.folder}/latents/image_64x64/{rows[0]['shard']}", "r+b") as f:
        f.seek(rows[0]["offset"] + 100)
        f.write(b"broken")
    assert len(Validation(out, 100, levels=4)) == 31
    assert rows[0]["key"] in caplog.text


def test_averaging_turns_from_exponential_to_uniform():
    model = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(model, 0.5, uniform_after=3)
    seen = []
    for value in (9.0, 8.0, 7.0, 1.0, 2.0, 6.0):
        torch.nn.init.constant_(model.weight, value)
        ema.update(model)
        seen.append(ema.weights["weight"].item())
    assert seen[2] > 6
    assert seen[3:] == pytest.approx([1.0, 1.5, 3.0])
