"""A checkpoint that would run code ends training, on every rank; a damaged one gives way to the one before."""

import os
import pickle

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
import torch, torch.distributed as dist
from lingen.io.dcp import ForbiddenContent
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.train.checkpoint import Checkpointer
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.optimizer import build_optimizer
from lingen.train.sharding import shard

dist.init_process_group("gloo")
torch.manual_seed(0)  # copies are equal
folder, config = Path(sys.argv[1]), FitConfig(shard_group=int(sys.argv[2]))
model = Denoiser(DenoiserConfig(
    width=32, depth=1, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8,), position_sizes=(4, 4, 4)
))
shard(model, config)
ema, optimizer = EMA(model, 0.9), build_optimizer(model, config)
checkpointer = Checkpointer(folder, model, ema, optimizer)
expected = {}
for step in (1, 2):
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    ema.update(model)
    expected[step] = [p.to_local().clone() for p in model.parameters()]
    checkpointer.save(step, {})
    checkpointer.wait()

def loads(step):
    for p in model.parameters():
        p.data.zero_()
    assert checkpointer.load_newest()["step"] == step
    assert all(torch.equal(p.to_local(), q) for p, q in zip(model.parameters(), expected[step]))

def write(data):
    if dist.get_rank() == 0:
        path.write_bytes(data)
    dist.barrier()

path = folder / "step_00000002" / ".metadata"
good = path.read_bytes()
dist.barrier()
loads(2)
write(Path(sys.argv[3]).read_bytes())
try:
    checkpointer.load_newest()
    raise SystemExit("loaded")
except ForbiddenContent as error:
    assert str(error).startswith(f"{path} names posix.system"), error
dist.barrier()
assert path.is_file(), "not set aside as if it were damaged"
write(good)
loads(2)
write(good[: len(good) // 2])
loads(1)
assert path.parent.with_name("damaged_step_00000002").is_dir()
dist.destroy_process_group()
"""


class Evil:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "shard_group"), [(2, 0), (4, 2)])
def test_honest_forbidden_and_damaged_checkpoints(run_ranks, tmp_path, ranks, shard_group):
    (tmp_path / "evil").write_bytes(pickle.dumps(Evil(tmp_path / "owned")))
    run_ranks(SCRIPT, ranks, tmp_path / "checkpoints", shard_group, tmp_path / "evil")
    assert not (tmp_path / "owned").exists()
