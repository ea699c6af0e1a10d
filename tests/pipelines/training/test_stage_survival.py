"""A training run that loses a worker, MLflow, a machine and at last everything, against one that loses nothing."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lingen.data.batch_plan import BatchPlan
from lingen.data.shard_index import ShardIndex
from lingen.data.synthetic import write_random_encoding
from lingen.io.manifest import to_plain
from pipelines.recipes import find_stage

mlflow = pytest.importorskip("mlflow")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
STAGE, STEPS = "demo_t2i_64p", 72
FIT = {"steps": STEPS, "batch_size": 6, "log_every": 1, "checkpoint_every": 4, "held_out": 0, "validate_every": 0}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
PATIENCE_S = 300


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def kill_with_children(pid):
    """kill -9 of a process and all it started."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


def wait_for(what, condition):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S} s"
        time.sleep(0.2)
    return found


def read_lines(path):
    return [json.loads(x) for x in path.read_text().splitlines() if x.endswith("}")] if path.is_file() else []


class Server:
    """A real MLflow server on a store of its own, to be stopped and started again."""

    def __init__(self, folder):
        self.port, self.folder, self.process = free_port(), folder, None
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port, "--workers", 1]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", self.folder / "artifacts"]
        with open(self.folder / "server.log", "a") as log:
            quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # or it starts two more processes
            self.process = subprocess.Popen(list(map(str, command)), cwd=self.folder, env=quiet, stdout=log, stderr=log)
        wait_for("MLflow server", lambda: socket.socket().connect_ex(("127.0.0.1", self.port)) == 0)

    def kill(self):
        if self.process and self.process.poll() is None:
            kill_with_children(self.process.pid)
            self.process.wait()


class Job:
    """jobs/train.py on `encoding`, and what it has written."""

    def __init__(self, encoding, output, server, **environment):
        self.encoding, self.output = encoding, output
        self.environment = ENVIRONMENT | {"MLFLOW_TRACKING_URI": server.uri} | environment
        self.log = output.with_suffix(".log")

    def start(self, *flags):
        command = [
            sys.executable,
            "jobs/train.py",
            "--stage",
            STAGE,
            "--shards",
            self.encoding,
            "--output",
            self.output,
        ]
        command += ["--sampler.steps", 2, "--record-samples", "--workers.threads", 1, *flags]
        for name, value in FIT.items():
            command += [f"--fit.{name.replace('_', '-')}", value]
        with open(self.log, "a") as log:
            return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def metrics(self):
        return read_lines(self.output / "tracking" / "metrics.jsonl")

    def step(self):
        return len(self.metrics())

    def train_on(self, process, steps=6):
        """Wait until it is so many steps further; returns the step."""
        target = self.step() + steps
        assert target < STEPS, "too few steps for what is to happen in them"

        def further():
            assert process.poll() is None, self.log.read_text()[-3000:]
            return self.step() >= target

        wait_for(f"step {target}", further)
        return self.step()

    def samples(self):
        """step -> list of (first place, keys), one for each worker that trained it."""
        found = {}
        for path in sorted((self.output / "samples").glob("*.jsonl")):
            for line in read_lines(path):
                found.setdefault(line["step"], []).append((line["place"], line["keys"]))
        return found


def train_workers(raylet):
    """Processes of Ray Train's workers on one node."""
    found = []
    for process in psutil.Process(raylet).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            found += [process] if "RayTrainWorker" in " ".join(process.cmdline()) else []
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("survival")


@pytest.fixture(scope="module")
def encoding(folder):
    return write_random_encoding(folder / "latents", {"image_64x64": 9})


@pytest.fixture(scope="module")
def undisturbed(folder, encoding):
    """step -> loss of two workers without Ray and MLflow, to whom nothing happens."""
    fit = to_plain(dataclasses.replace(find_stage(STAGE)[1].fit, **FIT))
    settings = [f"{name}={value}" for name, value in fit.items() if name != "guard"]
    output = folder / "undisturbed"
    command = [sys.executable, "-m", "lingen.train", "--shards", encoding, "--output", output, *settings]
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            list(map(str, command)),
            env=ENVIRONMENT | ranks | {"RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [p.communicate(timeout=PATIENCE_S)[1] for p in processes]
    assert not any(p.returncode for p in processes), errors[0][-3000:]
    return {line["step"]: line["loss"] for line in read_lines(output / "metrics.jsonl")}


@pytest.fixture(scope="module")
def story(folder, encoding):
    """(job, server, step at which the second machine was lost, step at which all was lost) after all is over."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    server, started, cluster = Server(folder), [], Cluster()
    try:
        server.start()
        nodes = [cluster.add_node(num_cpus=2, include_dashboard=False) for _ in range(2)]
        raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
        # Right after a machine is lost Ray still counts it, and waits this long (60 s) for a place on it. Less than
        # what a worker takes to start on a busy machine would mean starting for ever.
        environment = {"RAY_ADDRESS": cluster.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"}
        job = Job(encoding, folder / "out", server, **environment)
        process = job.start("--workers.count", 2, "--workers.min", 1, "--workers.cpus", 2)
        started.append(process)
        job.train_on(process)
        (worker,) = train_workers(raylets[1])
        worker.kill()
        job.train_on(process)
        server.kill()
        job.train_on(process)
        kill_with_children(raylets[1])
        machine_lost = job.step() + 1  # a step may have been reported since the last look
        all_lost = job.train_on(process)
        for worker in train_workers(raylets[0]):
            worker.kill()
        process.send_signal(signal.SIGKILL)
        process.wait()
        kill_with_children(raylets[0])
        cluster.shutdown()

        server.start()
        job.environment.pop("RAY_ADDRESS")
        process = job.start("--workers.count", 3, "--workers.cpus", 0.5)
        started.append(process)
        assert process.wait(PATIENCE_S) == 0, job.log.read_text()[-3000:]
        yield job, server, machine_lost, all_lost
    finally:
        for process in started:
            if process.poll() is None:
                kill_with_children(process.pid)
        cluster.shutdown()
        server.kill()


def test_the_loss_of_every_step_is_the_undisturbed_runs(story, undisturbed):
    job, _, machine_lost, _ = story
    losses = {line["step"]: line["metrics"]["loss"] for line in job.metrics()}
    assert sorted(losses) == sorted(undisturbed) == list(range(1, STEPS + 1))
    # Two workers, one of them killed and replaced: bit for bit what the bare loop gives.
    assert {s: x for s, x in losses.items() if s < machine_lost} == {
        s: x for s, x in undisturbed.items() if s < machine_lost
    }
    for step, loss in losses.items():
        assert loss == pytest.approx(undisturbed[step], rel=1e-5), step


def test_every_step_saw_the_planned_samples_whatever_the_number_of_workers(story, encoding):
    job, _, machine_lost, all_lost = story
    fit = find_stage(STAGE)[1].fit
    index = ShardIndex.open(encoding).select(media="image")
    plan = BatchPlan(index, seed=fit.seed, batch_size=FIT["batch_size"], text_dropout=fit.text_dropout)
    samples = job.samples()
    assert sorted(samples) == list(range(1, STEPS + 1))
    for step, shares in samples.items():
        expected = [sample.key for sample in plan[step - 1].samples]
        assert {place for start, keys in shares for place in range(start, start + len(keys))} == set(range(6)), step
        assert all(keys == expected[start : start + len(keys)] for start, keys in shares), step
    workers = {step: {6 // len(keys) for _, keys in shares} for step, shares in samples.items()}
    assert workers[1] == {2}
    assert workers[all_lost] >= {1}, "with the one machine that was left"
    assert workers[STEPS] == {3}
    assert any(len(shares) > 2 for step, shares in samples.items() if step < machine_lost), "steps were trained again"


def test_mlflow_has_every_point_once_though_it_was_away(story):
    job, server, _, _ = story
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("lingen-demo")
    (run,) = client.search_runs([experiment.experiment_id])
    expected = [(line["step"], line["metrics"]["loss"]) for line in job.metrics()]
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(p.step, p.value) for p in sorted(points, key=lambda p: p.step)] == expected
    assert run.info.status == "FINISHED"
    assert client.list_artifacts(run.info.run_id, "samples")
