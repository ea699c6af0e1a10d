"""Shards through a pool of Ray Data actors, with one progress line over all of them."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading

import ray

from lingen.io.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeWorkers:
    """How many workers encode, and what each reserves. Does not change what is written."""

    count: int = 0
    """Workers; 0 takes one per GPU when gpus is not 0, otherwise one."""
    cpus: float = 0.5
    """CPUs reserved per worker; reading frames needs what remains."""
    gpus: float = 0
    """GPUs reserved per worker; 0 encodes on the CPU."""
    threads: int = 0
    """torch threads per worker on the CPU; 0 takes half of the machine's CPUs, shared between the workers."""

    def __post_init__(self):
        if self.count < 0 or self.cpus < 0 or self.gpus < 0 or self.threads < 0:
            raise ValueError("workers: count, cpus, gpus and threads must not be negative")

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


def pool_size(config: EncodeWorkers) -> int:
    """Workers that the cluster has room for. ValueError when there is none for a single one."""
    have = ray.cluster_resources()
    for name, need in (("CPU", config.cpus), ("GPU", config.gpus)):
        if need > have.get(name, 0):
            raise ValueError(f"workers: one needs {need:g} {name}, the cluster has {have.get(name, 0):g}")
    if config.count:
        return config.count
    return int(have["GPU"] // config.gpus) if config.gpus else 1


def torch_threads(config: EncodeWorkers) -> int:
    return config.threads or max(1, (os.cpu_count() or 1) // (2 * max(1, config.count)))


@ray.remote(num_cpus=0)
class Tally:
    """Counts finished units across workers."""

    def __init__(self):
        self.count = 0

    def add(self, n: int) -> None:
        self.count += n

    def total(self) -> int:
        return self.count


def run_shards(worker: type, settings, rows: list[dict], config: EncodeWorkers, progress: Progress) -> list[dict]:
    """Call worker(settings, tally) on every row in a pool of actors; returns what the calls return, in any order."""
    if not rows:
        progress.close("nothing left to do")
        return []
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    tally, stop = Tally.remote(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(tally, progress, stop), daemon=True)
    watcher.start()
    try:
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            worker,
            fn_constructor_args=(settings, tally),
            compute=ray.data.ActorPoolStrategy(size=min(pool_size(config), len(rows))),
            num_cpus=config.cpus,
            num_gpus=config.gpus or None,
        )
        return data.take_all()
    finally:
        stop.set()
        watcher.join()
        progress.close()


def _watch(tally, progress: Progress, stop: threading.Event) -> None:
    seen, last = 0, False
    while not last:
        last = stop.wait(1.0)  # once more after the end, for what came since
        total = ray.get(tally.total.remote())
        progress.update(total - seen)
        seen = total
