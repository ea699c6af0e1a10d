"""LatentLoader: one rank's share of the planned batches as tensors, read ahead in threads.

Its state is one integer, the next step. With any number of ranks and threads, the ranks' shares of a step together are
the same global batch, even where a damaged sample had to be replaced.

B batch (of this rank), C channels, T/H/W latent axes, L text tokens (longest of the batch), D text width.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from lingen.data.batch_plan import BatchPlan, PlannedBatch, PlannedSample
from lingen.data.buckets import Bucket
from lingen.data.shard_index import BucketIndex, ShardIndex
from lingen.data.shards import DamagedSample
from lingen.text.padding import pad_text

log = logging.getLogger(__name__)

MAX_AHEAD = 8
MAX_REPLACEMENTS = 64


@dataclasses.dataclass(frozen=True)
class LatentBatch:
    """One rank's share of a global batch."""

    step: int
    bucket: Bucket
    latent_BCTHW: torch.Tensor
    """float32, normalised by the TAE's scale and shift"""
    text: list[tuple[torch.Tensor, torch.Tensor]]
    """per encoder: embedding_BLD, float32, zero where padded; mask_BL, bool, True on tokens. Rows whose text is dropped
    are all False in every encoder."""
    keys: list[str]
    """of the samples"""
    seeds: list[int]
    """of the samples, 63 bits; a seed depends only on plan seed, step and place in the global batch"""
    places: range
    """of the samples in the global batch"""
    replaced: dict[str, str]
    """key of a damaged sample -> key of the sample used instead"""


class LatentLoader:
    """Iterator over one rank's batches from any step on, endless or up to `stop_step`.

    Args:
        shards: an opened index, or the folder or URI of one.
        plan: made from the same index.
        rank: this worker.
        world_size: how many workers share each global batch.
        start_step: the first step to yield.
        stop_step: one past the last step; None: no end.
        read_ahead_mb: megabytes of float32 latents to keep in flight beside the batch that is handed out; at least one
            batch, at most MAX_AHEAD.
        threads: readers. Local disks need few; remote storage needs more to hide its latency.

    Attributes:
        damaged: the keys found damaged so far (each is logged once).

    Raises:
        ValueError: the batch has fewer samples than there are workers.
        FileNotFoundError: a shard is missing or cut off; raised before the first batch.
    """

    def __init__(
        self,
        shards: ShardIndex | str | Path,
        plan: BatchPlan,
        rank: int = 0,
        world_size: int = 1,
        *,
        start_step: int = 0,
        stop_step: int | None = None,
        read_ahead_mb: float = 32.0,
        threads: int = 2,
    ):
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: {rank} is not one of {world_size} workers")
        if plan.batch_size < world_size:
            raise ValueError(
                f"batch_size: {plan.batch_size} is less than {world_size} workers; each needs at least one sample"
            )
        self.index = shards if isinstance(shards, ShardIndex) else ShardIndex.open(shards)
        self.index.check_files()
        self.plan, self.rank, self.world_size = plan, rank, world_size
        self.damaged: set[str] = set()
        self._local, self._reporting = threading.local(), threading.Lock()
        self._next, self._stop = start_step, stop_step
        self._read_ahead, self._threads = read_ahead_mb * 1e6, max(1, threads)

    def __iter__(self) -> Iterator[LatentBatch]:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="latents")
        ahead: deque[_Pending] = deque()
        planned = self._next
        try:
            while True:
                while (self._stop is None or planned < self._stop) and self._wants_more(ahead):
                    ahead.append(self._submit(pool, planned))
                    planned += 1
                if not ahead:
                    return
                yield self._finish(ahead.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def next_step(self) -> int:
        """The loader's whole state: the step of the next batch."""
        return self._next

    def _wants_more(self, ahead: deque[_Pending]) -> bool:
        """Whether to start reading another batch; ahead[0] is handed out next, the others are read ahead of it."""
        in_flight = sum(pending.latent_BCTHW.nbytes for pending in islice(ahead, 1, None))
        return len(ahead) < 2 or (len(ahead) <= MAX_AHEAD and in_flight < self._read_ahead)

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> _Pending:
        batch = self.plan[step]
        places = batch.slice(self.rank, self.world_size)
        shape = self.index.buckets[batch.bucket.name].latent_shape
        # Not torch.empty: it allocates aligned memory, which fragments glibc's heap until half of it is holes.
        latent_BCTHW = torch.from_numpy(np.empty((len(places), *shape), np.float32))
        share = -(-len(places) // self._threads)
        rows = [slice(i, i + share) for i in range(0, len(places), share)]
        parts = [pool.submit(self._read, batch, places[part], latent_BCTHW[part]) for part in rows]
        return _Pending(batch, places, latent_BCTHW, parts)

    def _read(self, batch: PlannedBatch, places: range, latent_BCTHW: torch.Tensor) -> list[_Read]:
        """Read some places, the latents into `latent_BCTHW`. Runs in a thread of the pool."""
        bucket = self.index.buckets[batch.bucket.name]
        if not hasattr(self._local, "scratch"):
            self._local.scratch = bucket.scratch()
        read = []
        for place, out_CTHW in zip(places, latent_BCTHW):
            used, latent_CTHW, text_LD = self._read_or_replace(bucket, batch, place)
            out_CTHW.copy_(latent_CTHW)
            read.append(_Read(batch.samples[place].key, used, [tokens_LD.clone() for tokens_LD in text_LD]))
        return read

    def _read_or_replace(
        self, bucket: BucketIndex, batch: PlannedBatch, place: int
    ) -> tuple[PlannedSample, torch.Tensor, list[torch.Tensor]]:
        """(sample used, latent, text) of a place; the tensors are valid until the next read in this thread."""
        sample = batch.samples[place]
        for attempt in range(MAX_REPLACEMENTS):
            try:
                return sample, *bucket.read(sample.row, self._local.scratch)
            except DamagedSample as damage:
                with self._reporting:  # two threads may read the same sample at once
                    new = sample.key not in self.damaged
                    self.damaged.add(sample.key)
                if new:
                    log.warning("damaged sample, another is used instead: %s", damage)
                sample = self.plan.replacement(batch.step, place, attempt)
        raise DamagedSample(f"{batch.bucket.name}: {MAX_REPLACEMENTS} samples in a row are damaged; encode it again")

    def _finish(self, pending: _Pending) -> LatentBatch:
        """Wait for a batch in flight and collate it."""
        read = [one for part in pending.parts for one in part.result()]
        self._next = pending.batch.step + 1
        used = [one.used for one in read]
        drop = [sample.drop_text for sample in used]
        return LatentBatch(
            step=pending.batch.step,
            bucket=pending.batch.bucket,
            latent_BCTHW=pending.latent_BCTHW,
            text=[pad_text(of_encoder, drop) for of_encoder in zip(*(one.text_LD for one in read))],
            keys=[sample.key for sample in used],
            seeds=[sample.seed for sample in used],
            places=pending.places,
            replaced={one.planned: one.used.key for one in read if one.planned != one.used.key},
        )


@dataclasses.dataclass(frozen=True)
class _Read:
    """What was read for one place, except its latent."""

    planned: str
    """key"""
    used: PlannedSample
    """the planned sample or its replacement"""
    text_LD: list[torch.Tensor]
    """per encoder"""


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A batch in flight."""

    batch: PlannedBatch
    places: range
    latent_BCTHW: torch.Tensor
    parts: list[Future]
