"""The order of batches: which samples make up the global batch of a step, as a pure function of (seed, step).

Nothing is drawn in sequence, so there is no state to keep: any step can be asked for first, by any number of workers,
and the answer is the same. The mixture (lingen/data/mixture.py) says which bucket a step takes. The samples of a bucket
form one endless sequence of passes, each pass a permutation of all of them (lingen/data/permutation.py): every sample
comes once per pass, and there is no epoch edge. A batch is the next `batch_size` places of that sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lingen.data.buckets import Bucket
from lingen.data.mixture import build_mixture, parse_ratio
from lingen.data.permutation import hash_integers, mix_bits, permute
from lingen.data.shard_index import ShardIndex


@dataclasses.dataclass(frozen=True)
class PlannedSample:
    """One place of a global batch."""

    key: str
    row: int
    """row in the bucket"""
    seed: int
    """seed of the sample's noise and time, 63 bits"""
    drop_text: bool
    """whether the text is hidden this time, for classifier-free guidance"""


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """A global batch: all samples are of one bucket."""

    step: int
    bucket: Bucket
    samples: Sequence[PlannedSample]

    def slice(self, rank: int, world_size: int) -> range:
        """The places that a rank takes: contiguous, equal in number to within one, the whole batch over all ranks."""
        n = len(self.samples)
        return range(n * rank // world_size, n * (rank + 1) // world_size)


class BatchPlan:
    """The global batch of every step: plan[step] -> PlannedBatch.

    Args:
        index: the buckets to draw from (ShardIndex.select picks a stage's).
        seed: of everything that is random here.
        batch_size: samples in a global batch.
        image_ratio: images per video in samples, as "1:100", a Fraction or a number; 0 leaves images out. It does not
            apply to an index of images alone.
        text_dropout: probability that a sample's text is hidden.
        weighting: how buckets of one medium share its batches: "samples" (in proportion to their number of samples)
            or "equal".

    Raises:
        ValueError: an argument is out of range, or the index lacks a medium that the ratio asks for.
    """

    def __init__(
        self,
        index: ShardIndex,
        *,
        seed: int,
        batch_size: int,
        image_ratio: str | float | Fraction = "1:100",
        text_dropout: float = 0.1,
        weighting: str = "samples",
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} is less than 1")
        if not 0 <= text_dropout <= 1:
            raise ValueError(f"text_dropout: {text_dropout} is not a probability; use 0 to 1")
        self.seed, self.batch_size, self.text_dropout, self.weighting = seed, batch_size, text_dropout, weighting
        self.image_ratio = parse_ratio(image_ratio)
        self._buckets = {name: b for name, b in index.buckets.items() if len(b) > 0}
        sizes = {name: len(b) for name, b in self._buckets.items()}
        self._mixture = build_mixture(sizes, self.image_ratio, weighting, index.folder)
        self._keys = {name: hash_integers(f"order/{seed}/{name}", 1)[0] for name in self._buckets}

    def __getitem__(self, step: int) -> PlannedBatch:
        if step < 0:
            raise IndexError(f"step {step} is negative")
        name, ordinal = self._mixture.bucket(step)
        bucket = self._buckets[name]
        rows = self._rows(name, ordinal * self.batch_size + np.arange(self.batch_size, dtype=np.uint64))
        seeds, drops = self._draws(step)
        samples = [PlannedSample(*s) for s in zip(bucket.keys(rows), rows, seeds, drops)]
        return PlannedBatch(step, bucket.bucket, samples)

    def replacement(self, step: int, place: int, attempt: int) -> PlannedSample:
        """The sample to use instead of a damaged one: another row of the same bucket, with the same seed.

        A pure function of the arguments, so that every number of workers replaces alike.

        Args:
            step: the step of the damaged sample.
            place: its place in the global batch.
            attempt: how many replacements were damaged too.
        """
        name, _ = self._mixture.bucket(step)
        bucket = self._buckets[name]
        row = hash_integers(f"replacement/{self.seed}/{step}/{place}/{attempt}", 1)[0] % len(bucket)
        seeds, drops = self._draws(step)
        return PlannedSample(bucket.key(row), row, seeds[place], drops[place])

    def shares(self) -> dict[str, Fraction]:
        """Bucket name -> its share of all steps."""
        return self._mixture.shares()

    def state(self) -> dict[str, Any]:
        """What decides the order, as JSON values for checkpoints: equal states give equal plans over equal shards."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "image_ratio": str(self.image_ratio),
            "text_dropout": self.text_dropout,
            "weighting": self.weighting,
            "samples": {name: len(b) for name, b in self._buckets.items()},
        }

    def _rows(self, name: str, places: np.ndarray) -> list[int]:
        """The rows at some places of a bucket's endless sequence of passes."""
        n = len(self._buckets[name])
        passes, offsets = np.divmod(places, np.uint64(n))
        rows: list[int] = []
        for number in range(int(passes[0]), int(passes[-1]) + 1):
            key = self._keys[name] ^ hash_integers(f"pass/{number}", 1)[0]
            rows += permute(offsets[passes == number], n, key).tolist()
        return rows

    def _draws(self, step: int) -> tuple[list[int], list[bool]]:
        """Seed and text dropout of every place of a step."""
        first = np.uint64(hash_integers(f"draw/{self.seed}/{step}", 1)[0])
        words = mix_bits(np.arange(2 * self.batch_size, dtype=np.uint64) + first)
        seeds = (words[: self.batch_size] >> np.uint64(1)).tolist()
        uniform = (words[self.batch_size :] >> np.uint64(11)) * 2.0**-53
        return seeds, (uniform < self.text_dropout).tolist()
