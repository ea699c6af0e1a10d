"""The faults: each starts a job, does something to it, and leaves an output for the same command to finish."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.jobs import Job, Undisturbed

# Shifts time.time of every Python process that has this folder on its path and LINGEN_CLOCK_SHIFT set.
SHIFTED_CLOCK = """
import os, time
shift, real = float(os.environ.get("LINGEN_CLOCK_SHIFT", 0)), time.time
time.time = lambda: real() + shift
"""


class Case:
    """One fault on one job: `output`, `run()` the job's command, `start()` it in the background."""

    def __init__(self, job: Job, inputs: Path, folder: Path, environment: dict[str, str], usual: Undisturbed):
        self.job, self.inputs, self.folder, self.usual = job, inputs, folder, usual
        self.environment = environment
        self.output = folder / f"out{job.suffix}"
        self.random = random.Random(f"{job.name} {folder.name}")

    def start(self, **environment: str) -> subprocess.Popen:
        command = self.job.command(self.inputs, self.output)
        return subprocess.Popen(
            command, env=self.environment | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def run(self, **environment: str) -> tuple[int, str]:
        """(exit code, stderr) of the command."""
        process = self.start(**environment)
        error = process.communicate(timeout=300)[1]
        return process.returncode, error

    def wait_a_while(self, process: subprocess.Popen) -> None:
        """Until some random moment of the job's usual time, or its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.usual.seconds * self.random.uniform(0.3, 0.95))


def killed(case: Case) -> str:
    process = case.start()
    case.wait_a_while(process)
    for child in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()
    process.communicate()
    return "the same command finishes it"


def told_to_stop(case: Case) -> str:
    process = case.start()
    case.wait_a_while(process)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode in (0, 75, -signal.SIGTERM), (process.returncode, error[-2000:])  # -15: before it began
    return "ends within seconds; the same command finishes it"


def disk_full(case: Case) -> str:
    least = 4 << 10 if case.job.suffix else 256 << 10  # a page; a folder needs room for its claim
    with small_disk(case, max(least, case.usual.bytes // 2)) as grow:
        code, error = case.run()
        assert code != 0, "it fits"
        assert "Traceback" not in error.strip().splitlines()[0], error[-2000:]
        grow()
    return "an error that says so; with room the same command finishes it"


def read_only(case: Case) -> str:
    with small_disk(case, 1 << 30) as grow:
        subprocess.run(["mount", "-o", "remount,ro", str(case.output.parent)], check=True)
        code, error = case.run()
        assert code == 2, (code, error[-2000:])
        assert "Traceback" not in error, error[-2000:]
        assert "output" in error
        grow()
    return "refused in one line (exit 2); the same command finishes it once it may write"


def mlflow_away(case: Case) -> str:
    code, error = case.run(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 0, error[-2000:]
    return "goes on without; what was not sent waits in the output"


def clock_back(case: Case) -> str:
    """The first run believes in tomorrow, and is killed; the second one lives today."""
    (case.folder / "clock").mkdir()
    (case.folder / "clock" / "sitecustomize.py").write_text(SHIFTED_CLOCK)
    path = os.pathsep.join([str(case.folder / "clock"), case.environment.get("PYTHONPATH", "")])
    process = case.start(LINGEN_CLOCK_SHIFT="86400", PYTHONPATH=path)
    case.wait_a_while(process)
    process.kill()
    process.communicate()
    return "the same command finishes it"


def two_at_once(case: Case) -> str:
    one, other = case.start(), case.start()
    codes = [p.returncode for p in (one, other) if p.communicate(timeout=300) or True]
    assert set(codes) <= {0, 1, 2, 75}, codes
    return "the second is refused, or finds the work done"


def worker_lost(case: Case) -> str:
    process = case.start()
    case.wait_a_while(process)
    workers = [p for p in psutil.process_iter(["name"]) if p.info["name"].startswith("ray::") and _ours(p)]
    working = [p for p in workers if "IDLE" not in p.info["name"]]
    for worker in case.random.sample(working, min(1, len(working))):
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    error = process.communicate(timeout=300)[1]
    assert process.returncode in (0, 1, 75), error[-2000:]
    return "goes on by itself, or the same command finishes it"


def damaged_checkpoint(case: Case) -> str:
    process = case.start()
    checkpoints = case.output / "checkpoints"
    while process.poll() is None and len(list(checkpoints.glob("step_*"))) < 2:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    for newest in sorted(checkpoints.glob("step_*"))[-1:]:
        for shard in newest.glob("*.distcp"):
            shard.write_bytes(shard.read_bytes()[:100])
    return "the one before is taken"


def _ours(process: psutil.Process) -> bool:
    """Whether a Ray worker belongs to a cluster of this test process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return os.getpid() in [parent.pid for parent in process.parents()]
    return False


@contextlib.contextmanager
def small_disk(case: Case, size: int) -> Iterator[Callable[[], None]]:
    """The job's output on a disk of its own; the function inside makes it large and writable again."""
    disk = Path(tempfile.mkdtemp(dir=case.folder))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    place, case.output = case.output, disk / case.output.name
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,rw,size=2g", disk], check=True) and None
        if case.output.exists():
            move = shutil.copytree if case.output.is_dir() else shutil.copy
            move(case.output, place, **({"symlinks": True} if case.output.is_dir() else {}))
        for store in disk.glob("*.store"):
            shutil.copytree(store, place.parent / store.name)
    finally:
        case.output = place
        subprocess.run(["umount", "-l", disk], check=True)


ANYWHERE: dict[str, Callable[[Case], str]] = {
    "kill -9": killed,
    "SIGTERM": told_to_stop,
    "disk full": disk_full,
    "read-only output": read_only,
    "MLflow away": mlflow_away,
    "clock back by a day": clock_back,
    "two at once": two_at_once,
}
ON_WORKERS = {"worker killed": worker_lost}
IN_TRAINING = {"newest checkpoint damaged": damaged_checkpoint}
FAULTS: dict[str, dict[str, Callable[[Case], str]]] = {
    "curate": ANYWHERE | ON_WORKERS,
    "encode": ANYWHERE | ON_WORKERS,
    "train_tae": ANYWHERE | ON_WORKERS | IN_TRAINING,
    "train": ANYWHERE | ON_WORKERS | IN_TRAINING,
    "generate": {name: fault for name, fault in ANYWHERE.items() if name != "MLflow away"},
    "takedown": {name: fault for name, fault in ANYWHERE.items() if name != "MLflow away"},
}
