"""Which samples of an encoded folder a stage trains on: none that are held out, and of a reviewed set only its own.

A file is held out if the hash of its content, with which the keys of its samples begin, is below a threshold. So all
clips of a file, at every length and resolution, are on the same side in every stage, and stay there as the set grows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lingen.data.provenance import sample_key
from lingen.data.shard_index import BucketIndex, ShardIndex
from lingen.io.byte_ranges import Scratch

if TYPE_CHECKING:
    import pyarrow as pa

_DIGITS = 12  # of the hash; a share is exact to 16^-12


class BucketSubset(BucketIndex):
    """Some rows of a bucket, readable like a bucket.

    Args:
        whole: the bucket.
        rows: the rows to keep, increasing.
    """

    def __init__(self, whole: BucketIndex, rows: np.ndarray):
        self._whole, self._rows = whole, rows
        self.bucket, self.format, self.text_format = whole.bucket, whole.format, whole.text_format
        self.latent_shape, self.digest = whole.latent_shape, whole.digest

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def table(self) -> pa.Table:
        return self._whole.table.take(self._rows)

    def column(self, name: str) -> pa.ChunkedArray:
        return self._whole.column(name).take(self._rows)

    @property
    def key_column(self) -> pa.Array:
        return self._whole.key_column.take(self._rows)

    def key(self, row: int) -> str:
        return self._whole.key(int(self._rows[row]))

    def keys(self, rows: Sequence[int]) -> list[str]:
        return self._whole.keys(self._rows[np.asarray(rows, np.int64)].tolist())

    def row(self, key: str) -> int:
        found = np.flatnonzero(self._rows == self._whole.row(key))
        if not len(found):
            raise KeyError(key)
        return int(found[0])

    def read(self, row: int, scratch: Sequence[Scratch] | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self._whole.read(int(self._rows[row]), scratch)

    def scratch(self) -> list[Scratch]:
        return self._whole.scratch()

    def metadata(self, row: int) -> dict[str, Any]:
        return self._whole.metadata(int(self._rows[row]))

    def check_files(self) -> None:
        self._whole.check_files()


def licences(shards: ShardIndex) -> dict[str, int]:
    """Licence -> number of samples, the most frequent first."""
    import pyarrow.compute as pc

    counts: Counter[str] = Counter()
    for bucket in shards.buckets.values():
        for entry in pc.value_counts(bucket.column("license")).to_pylist():
            counts[entry["values"]] += entry["counts"]
    return dict(counts.most_common())


def select(
    shards: ShardIndex, held_out: float, clips: Collection[str] | None = None
) -> tuple[ShardIndex, ShardIndex | None]:
    """Divide samples into those to train on and those held out.

    Args:
        shards: all samples.
        held_out: share of the files that is held out.
        clips: clip_ids of a reviewed set: train on these only. The samples held out do not depend on it.

    Returns:
        (samples to train on, samples held out or None).

    Raises:
        ValueError: nothing is left to train on.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    threshold = f"{int(held_out * 16**_DIGITS):0{_DIGITS}x}"
    prefixes = None if clips is None else pa.array(sorted({sample_key(c, 0).rpartition("_w")[0] for c in clips}))
    train: dict[str, BucketIndex] = {}
    out: dict[str, BucketIndex] = {}
    for name, bucket in shards.buckets.items():
        below = pc.less(bucket.key_column, threshold)
        wanted = pc.invert(below)
        if prefixes is not None:
            of_clip = pc.replace_substring_regex(bucket.key_column, r"_w\d+$", "")
            wanted = pc.and_(wanted, pc.is_in(of_clip, prefixes))
        for part, mask in ((train, wanted), (out, below)):
            rows = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
            if len(rows):
                part[name] = bucket if len(rows) == len(bucket) else BucketSubset(bucket, rows)
    if not train:
        samples = f"{', '.join(shards.buckets)} in {shards.folder}"
        if clips is None:
            raise ValueError(
                f"--shards: all samples of {samples} are held out; lower fit.held_out, or encode more clips"
            )
        raise ValueError(f"--shards: no sample of {samples} is in the reviewed set and not held out")
    return ShardIndex(train, shards.folder), ShardIndex(out, shards.folder) if out else None
