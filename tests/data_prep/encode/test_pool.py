import io
import re
import threading
from types import SimpleNamespace

import pytest
import ray

from data_prep.encode import pool
from data_prep.encode.pool import EncodeWorkers, Tally, collect, pool_size, run_shards, torch_threads
from data_prep.media.errors import OurBug
from data_prep.ray_cluster import connect
from lingen.io.progress import Progress


@pytest.fixture
def cluster(monkeypatch):
    """What the cluster has: 4 CPUs and 2 GPUs."""
    monkeypatch.setattr(pool.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})


@pytest.mark.parametrize(
    ("workers", "size"),
    [
        (EncodeWorkers(), 1),
        (EncodeWorkers(count=3), 3),
        (EncodeWorkers(gpus=1), 2),
        (EncodeWorkers(gpus=0.5), 4),
        (EncodeWorkers(gpus=2, count=5), 5),
    ],
)
def test_the_pool_has_the_workers_asked_for_or_one_per_gpu(cluster, workers, size):
    assert pool_size(workers) == size


def test_workers_without_room_are_refused_by_the_name_of_their_flag(cluster):
    message = "--workers.gpus: one worker needs 3 GPU, but the cluster has only 2"
    with pytest.raises(ValueError, match=re.escape(message)):
        pool_size(EncodeWorkers(gpus=3))
    with pytest.raises(ValueError, match=re.escape("--workers.cpus: one worker needs 4.5 CPU")):
        pool_size(EncodeWorkers(cpus=4.5))
    with pytest.raises(ValueError, match=r"--workers: .* must not be negative"):
        EncodeWorkers(threads=-1)


def test_workers_share_half_of_the_machines_threads(monkeypatch):
    monkeypatch.setattr(pool.os, "cpu_count", lambda: 16)
    assert torch_threads(EncodeWorkers()) == 8
    assert torch_threads(EncodeWorkers(count=4)) == 2
    assert torch_threads(EncodeWorkers(count=99)) == 1
    assert torch_threads(EncodeWorkers(count=4, threads=5)) == 5


def test_nothing_left_to_do_needs_no_ray():
    stream = io.StringIO()
    assert run_shards(object, None, [], EncodeWorkers(), Progress("latents", 5, "segments", 5, stream)) == []
    assert "latents: 5/5 segments" in stream.getvalue()
    assert "nothing left to do" in stream.getvalue()


def test_units_counted_after_the_last_look_are_in_the_progress_line(monkeypatch):
    tally, stop = Tally(), threading.Event()
    monkeypatch.setattr(pool.ray, "get", lambda value: value)
    handle = SimpleNamespace(total=SimpleNamespace(remote=tally.total))
    progress = Progress("latents", 5, "segments", 1, io.StringIO())
    tally.add(1)
    tally.add(3)
    stop.set()
    pool._watch(handle, progress, stop)
    assert progress.done == 5


def test_the_first_worker_that_says_stop_ends_the_wait_for_the_others():
    waited = []

    def results():
        for i in range(4):
            waited.append(i)
            yield {"samples": i, "stop": "a bug of ours" if i == 2 else ""}

    with pytest.raises(OurBug, match="a bug of ours"):
        collect(results())
    assert waited == [0, 1, 2]
    assert collect([{"samples": 3, "stop": ""}]) == [{"samples": 3, "stop": ""}]


class Echo:
    """Returns its task."""

    def __init__(self, settings, tally):
        self.tally = tally

    def __call__(self, task):
        self.tally.add.remote(1)
        return {"stop": "", "number": task["number"]}


@pytest.mark.slow
def test_workers_that_find_no_room_are_not_waited_for(monkeypatch):
    """A training that has one of two CPUs: of three workers with one CPU each, one starts, and does all the work."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect()
    if ray.cluster_resources()["CPU"] != 2:
        pytest.skip("needs a cluster of two CPUs")

    @ray.remote(num_cpus=1)
    class Training:
        def ready(self):
            return True

    training = Training.remote()
    assert ray.get(training.ready.remote())
    tasks = [{"number": n} for n in range(6)]
    progress = Progress("numbers", len(tasks), stream=io.StringIO())
    found = run_shards(Echo, None, tasks, EncodeWorkers(count=3, cpus=1), progress)
    assert sorted(row["number"] for row in found) == list(range(6))
    assert ray.get(training.ready.remote())
    ray.kill(training)
