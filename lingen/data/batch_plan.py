"""BatchPlan: which samples make up the global batch of a step, as a pure function of (seed, step).

Nothing is drawn in sequence, so nothing has to be remembered: any step can be asked for first, on any number of
workers, and the answer is the same. Three closed forms make that possible:

- which bucket a step takes: a binary tree of even splits. At each node the two sides share the steps in a whole-number
  ratio, and after s steps the left side had floor((s * left + total/2) / total): exact in the long run, never off by
  more than half a batch. The root splits images from videos (1:100 by default, notes/paper.md), the nodes below share
  by number of samples, so that every sample of a medium is seen equally often.
- which samples: the bucket's samples form one endless row of passes, each pass a permutation of all of them, so every
  sample comes once per pass and there is no epoch edge. A batch is the next `batch_size` places of that row.
- the permutation: a keyed Feistel network with cycle walking (Black and Rogaway 2002), which needs no table.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from lingen.data.buckets import Bucket
from lingen.data.shard_index import ShardIndex

WEIGHTINGS = ("samples", "equal")
_ROUNDS = 6


@dataclasses.dataclass(frozen=True)
class PlannedSample:
    """One place of a global batch.

    Fields: key and row of the sample in its bucket; seed (63 bits) for its noise and time; drop_text, whether guidance
    training hides its text this time.
    """

    key: str
    row: int
    seed: int
    drop_text: bool


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """A global batch: all samples of one bucket."""

    step: int
    bucket: Bucket
    samples: Sequence[PlannedSample]

    def slice(self, rank: int, world_size: int) -> range:
        """The places that a rank takes: contiguous, sizes differ by one at most; all ranks together are the batch."""
        n = len(self.samples)
        return range(n * rank // world_size, n * (rank + 1) // world_size)


class BatchPlan:
    """plan[step] -> PlannedBatch.

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
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting: {weighting!r} is unknown; use {' or '.join(WEIGHTINGS)}")
        self.seed, self.batch_size, self.text_dropout, self.weighting = seed, batch_size, text_dropout, weighting
        self.image_ratio = parse_ratio(image_ratio)
        self._buckets = {name: b for name, b in index.buckets.items() if len(b) > 0}
        self._tree = self._build_tree({name: len(b) for name, b in self._buckets.items()}, index.folder)
        self._keys = {name: _integers(f"order/{seed}/{name}", 1)[0] for name in self._buckets}

    def __getitem__(self, step: int) -> PlannedBatch:
        if step < 0:
            raise IndexError(f"step {step} is negative")
        name, ordinal = self._tree.leaf(step)
        bucket = self._buckets[name]
        rows = self._rows(name, ordinal * self.batch_size + np.arange(self.batch_size, dtype=np.uint64))
        seeds, drops = self._draws(step)
        samples = [PlannedSample(*s) for s in zip(bucket.keys(rows), rows, seeds, drops)]
        return PlannedBatch(step, bucket.bucket, samples)

    def replacement(self, step: int, place: int, attempt: int) -> PlannedSample:
        """What to feed instead of a damaged sample at a place of a step: another row of the bucket, same seed.

        A function of the arguments alone, so every worker count replaces alike.
        """
        name, _ = self._tree.leaf(step)
        bucket = self._buckets[name]
        row = _integers(f"replacement/{self.seed}/{step}/{place}/{attempt}", 1)[0] % len(bucket)
        seeds, drops = self._draws(step)
        return PlannedSample(bucket.key(row), row, seeds[place], drops[place])

    def shares(self) -> dict[str, Fraction]:
        """Bucket name -> its share of all steps."""
        return self._tree.shares()

    def state(self) -> dict:
        """What decides the order, JSON-able, for checkpoints: equal states give equal plans over equal shards."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "image_ratio": str(self.image_ratio),
            "text_dropout": self.text_dropout,
            "weighting": self.weighting,
            "samples": {name: len(b) for name, b in self._buckets.items()},
        }

    def _build_tree(self, sizes: Mapping[str, int], folder: str) -> _Split | _Leaf:
        if not sizes:
            raise ValueError(f"{folder}: all buckets are empty; encode more clips")
        weights = {name: size if self.weighting == "samples" else 1 for name, size in sorted(sizes.items())}
        images = {name: w for name, w in weights.items() if name.startswith("image_")}
        videos = {name: w for name, w in weights.items() if not name.startswith("image_")}
        if not videos:
            return _even(images)
        if self.image_ratio == 0:
            return _even(videos)
        if not images:
            raise ValueError(
                f"image_ratio: {folder} has no image buckets for {self.image_ratio}; "
                "encode images, or set image_ratio 0"
            )
        return _Split(_even(images), self.image_ratio.numerator, _even(videos), self.image_ratio.denominator)

    def _rows(self, name: str, places: np.ndarray) -> list[int]:
        """Rows at some places of a bucket's endless row of passes."""
        n = len(self._buckets[name])
        passes, offsets = np.divmod(places, np.uint64(n))
        rows = []
        for number in range(int(passes[0]), int(passes[-1]) + 1):
            key = self._keys[name] ^ _integers(f"pass/{number}", 1)[0]
            rows += permute(offsets[passes == number], n, key).tolist()
        return rows

    def _draws(self, step: int) -> tuple[list[int], list[bool]]:
        """Seeds and text dropout of a step's places."""
        words = _mix(
            np.arange(2 * self.batch_size, dtype=np.uint64) + np.uint64(_integers(f"draw/{self.seed}/{step}", 1)[0])
        )
        seeds = (words[: self.batch_size] >> np.uint64(1)).tolist()
        uniform = (words[self.batch_size :] >> np.uint64(11)) * 2.0**-53
        return seeds, (uniform < self.text_dropout).tolist()


def parse_ratio(value: str | float | Fraction) -> Fraction:
    """Images per video: "1:100", "1/100" or 0.01, exactly. ValueError when it is negative or no ratio."""
    try:
        if isinstance(value, str) and ":" in value:
            left, right = value.split(":")
            ratio = Fraction(left) / Fraction(right)
        else:
            ratio = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"image_ratio: {value!r} is no ratio; write 1:100, or 0 for no images") from None
    if ratio < 0:
        raise ValueError(f"image_ratio: {value!r} is negative; write 1:100, or 0 for no images")
    return ratio


@dataclasses.dataclass(frozen=True)
class _Leaf:
    name: str

    def leaf(self, step: int) -> tuple[str, int]:
        return self.name, step

    def shares(self) -> dict[str, Fraction]:
        return {self.name: Fraction(1)}


@dataclasses.dataclass(frozen=True)
class _Split:
    """Shares the steps between two sides in a whole-number ratio, as evenly as whole steps can."""

    left: _Split | _Leaf
    left_weight: int
    right: _Split | _Leaf
    right_weight: int

    def _left_of(self, steps: int) -> int:
        """How many of the first `steps` steps went left."""
        total = self.left_weight + self.right_weight
        return (2 * steps * self.left_weight + total) // (2 * total)

    def leaf(self, step: int) -> tuple[str, int]:
        """The bucket of a step, and how many batches of that bucket came before."""
        before = self._left_of(step)
        if self._left_of(step + 1) > before:
            return self.left.leaf(before)
        return self.right.leaf(step - before)

    def shares(self) -> dict[str, Fraction]:
        share = Fraction(self.left_weight, self.left_weight + self.right_weight)
        left = {name: s * share for name, s in self.left.shares().items()}
        return left | {name: s * (1 - share) for name, s in self.right.shares().items()}


def _even(weights: Mapping[str, int]) -> _Split | _Leaf:
    """A balanced tree over buckets."""
    names = list(weights)
    if len(names) == 1:
        return _Leaf(names[0])
    left, right = ({n: weights[n] for n in half} for half in (names[: len(names) // 2], names[len(names) // 2 :]))
    return _Split(_even(left), sum(left.values()), _even(right), sum(right.values()))


def permute(places: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where a keyed permutation of 0..n-1 sends some places. `places`: uint64, each below n."""
    if n == 1:
        return np.zeros(len(places), np.int64)
    bits = max(6, (n - 1).bit_length())
    low = np.uint64(bits - bits // 2)  # width of the right half; the halves change width with every (even) round
    masks = [np.uint64((1 << bits // 2) - 1), np.uint64((1 << (bits - bits // 2)) - 1)] * (_ROUNDS // 2)
    shift, *keys = (np.uint64(k) for k in _integers(f"feistel/{key}", 1 + _ROUNDS))
    result = places.astype(np.uint64)
    walking = np.arange(len(result))
    while len(walking):  # cycle walking: the network permutes the next power of two; walk on until below n
        left, right = result[walking] >> low, result[walking] & masks[1]
        for k, mask in zip(keys, masks):
            left, right = right, left ^ (_mix(right ^ k) & mask)
        result[walking] = (left << low) | right
        walking = walking[result[walking] >= n]
    # On a handful of places the network alone is not fair; a keyed rotation makes every place equally likely.
    return ((result + shift % np.uint64(n)) % np.uint64(n)).astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele et al. 2014): uint64 -> well-mixed uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around silently
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _integers(name: str, count: int) -> list[int]:
    """`count` 64-bit integers that depend on a name alone."""
    data = hashlib.blake2b(name.encode(), digest_size=8 * count).digest()
    return [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(count)]
