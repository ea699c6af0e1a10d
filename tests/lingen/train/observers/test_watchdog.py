"""Hang detection: three real processes, one asleep and one frozen; the third ends with an error that names both."""

import json
import subprocess
import sys
import time

import pytest

from lingen.train.observers.watchdog import Stalled, Watchdog

SCRIPT = """
import datetime, os, signal, sys, time
from pathlib import Path
import torch.distributed as dist
from lingen.train.observers.lockstep import Lockstep
from lingen.train.observers.watchdog import Watchdog

rank, out, timeout = int(sys.argv[1]), Path(sys.argv[2]), 4.0
limit = datetime.timedelta(seconds=timeout)
dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=3, timeout=limit)
lockstep = Lockstep(timeout)

def read_from_a_dead_disk():
    time.sleep(600)

def train():
    with Watchdog(out, timeout) as watchdog:
        for step in range(4):
            watchdog.enter(step, "data")
            if step == 1 and rank == 1:
                time.sleep(0.6 * timeout)
            if step == 2 and rank == 1:
                read_from_a_dead_disk()
            if step == 2 and rank == 2:
                (out / "frozen").touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            watchdog.enter(step, "step")
            lockstep.send(rank)
            assert lockstep.receive() == [2]

train()
"""


@pytest.mark.slow
def test_the_ranks_that_others_wait_for_are_named(tmp_path):
    ranks = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(r), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for r in range(3)
    ]
    while not (tmp_path / "frozen").exists():
        time.sleep(0.02)
        assert all(p.poll() is None for p in ranks), "a slow step is not a hang"
    error = ranks[0].communicate(timeout=120)[1]
    ranks[2].kill()
    message = error.strip().splitlines()[-1]
    assert "lingen.train.observers.watchdog.Stalled: rank 0 made no progress for" in message, error
    assert "rank 2, which is silent (dead or frozen)" in message
    assert "rank 1, in phase 'data' at <string>" in message
    assert "(read_from_a_dead_disk)" in message
    assert "read_from_a_dead_disk" in "".join(json.loads((tmp_path / "stalled" / "rank1.json").read_text())["stack"])
    assert ranks[0].returncode == 1
    assert ranks[1].wait(timeout=60) == 1, "the sleeper ends too: nothing is left to kill by hand"


def fail_late(folder, error):
    """Raise an error in a watched block, after the timeout."""
    with Watchdog(folder, timeout_s=0.05) as watchdog:
        watchdog.enter(3, "step")
        time.sleep(0.1)
        raise error


def test_an_error_of_a_collective_after_the_timeout_names_the_phase(process_group, tmp_path):
    with pytest.raises(Stalled, match=r"rank 0 made no progress for 0 s in phase 'step' of step 3; .* is 0\.05 s"):
        fail_late(tmp_path, RuntimeError("Timed out waiting 50ms for recv operation to complete"))
    assert [path.name for path in tmp_path.rglob("*.json")] == ["rank0.json"], "to be looked at"


def test_other_errors_stay_what_they_are_and_a_good_end_leaves_no_file(process_group, tmp_path):
    with pytest.raises(ValueError, match="a bug"):
        fail_late(tmp_path, ValueError("a bug"))
    with Watchdog(tmp_path, timeout_s=60):
        pass
    assert not list(tmp_path.rglob("*.json"))
