"""Run shards through a pool of Ray Data actors, with one progress line for all of them."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from data_prep.media.errors import OurBug
from data_prep.ray_cluster import quiet_ray
from lingen.io.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeWorkers:
    """How many workers encode, and what each reserves. Does not change the output."""

    count: int = 0
    """Workers; 0: one per GPU if --workers.gpus is not 0, otherwise one."""
    cpus: float = 0.5
    """CPUs reserved per worker; frames are read on the remaining ones."""
    gpus: float = 0
    """GPUs reserved per worker; 0: encode on the CPU."""
    threads: int = 0
    """torch threads per worker on the CPU; 0: half of the machine's CPUs, shared between the workers."""

    def __post_init__(self):
        if self.count < 0 or self.cpus < 0 or self.gpus < 0 or self.threads < 0:
            raise ValueError("--workers: count, cpus, gpus and threads must not be negative")

    @property
    def device(self) -> str:
        """Torch device that workers encode on."""
        return "cuda" if self.gpus else "cpu"


def pool_size(config: EncodeWorkers) -> int:
    """The number of workers to start on the connected cluster.

    Raises:
        ValueError: the cluster has no room for even one.
    """
    available = ray.cluster_resources()
    for field, name, need in (("cpus", "CPU", config.cpus), ("gpus", "GPU", config.gpus)):
        have = available.get(name, 0)
        if need > have:
            raise ValueError(f"--workers.{field}: one worker needs {need:g} {name}, but the cluster has only {have:g}")
    if config.count:
        return config.count
    return int(available["GPU"] // config.gpus) if config.gpus else 1


def torch_threads(config: EncodeWorkers) -> int:
    """Torch threads per worker."""
    return config.threads or max(1, (os.cpu_count() or 1) // (2 * max(1, config.count)))


class Tally:
    """An actor that counts finished units across workers."""

    def __init__(self):
        self.count = 0

    def add(self, n: int) -> None:
        """Count `n` more units."""
        self.count += n

    def total(self) -> int:
        """Units so far."""
        return self.count


def run_shards(
    worker: type, settings: object, tasks: Sequence[Mapping[str, Any]], config: EncodeWorkers, progress: Progress
) -> list[dict[str, Any]]:
    """Run tasks, one per shard, through a pool of actors.

    Args:
        worker: class of the actors, built as worker(settings, tally) and called with one task at a time; what a call
            returns has a "stop", which is empty as long as the job can go on.
        settings: first argument of every worker.
        tasks: one per shard, with plain values.
        config: size of the pool and resources of each worker.
        progress: advanced by what workers add to the tally; closed at the end.

    Returns:
        What the calls return, in any order.

    Raises:
        OurBug: a call says stop.
    """
    if not tasks:
        progress.close("nothing left to do")
        return []
    quiet_ray()
    tally, stop = ray.remote(Tally).options(num_cpus=0).remote(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(tally, progress, stop), daemon=True)
    watcher.start()
    try:
        data = ray.data.from_items(list(tasks), override_num_blocks=len(tasks)).map(
            worker,
            fn_constructor_args=(settings, tally),
            compute=ray.data.ActorPoolStrategy(size=min(pool_size(config), len(tasks))),
            num_cpus=config.cpus,
            num_gpus=config.gpus or None,
        )
        return collect(data.iter_rows())
    finally:
        stop.set()
        watcher.join()
        progress.close()


def collect(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Wait for what the workers return.

    Raises:
        OurBug: one says stop.
    """
    found = []
    for result in results:
        if result["stop"]:
            raise OurBug(result["stop"])
        found.append(result)
    return found


def _watch(tally: ActorHandle, progress: Progress, stop: threading.Event) -> None:
    """Advance the progress line once a second."""
    seen, last = 0, False
    while not last:
        last = stop.wait(1.0)  # once more after the end, for the last units
        total = ray.get(tally.total.remote())
        progress.update(total - seen)
        seen = total
