"""The layout of an encoding run: which shard of which bucket holds which segments, fixed before anything is encoded."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from data_prep.encode.config import EncodeConfig
from data_prep.encode.segments import Segment, cut_segments
from lingen.data.buckets import Bucket
from lingen.data.provenance import Provenance
from lingen.data.shards import DTYPES

MEMBER_OVERHEAD = 2560
"""Approximate bytes of a sample besides its latent: tar headers, padding and the JSON member."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """The segments of one tar."""

    bucket: str
    number: int
    segments: tuple[Segment, ...]

    @property
    def name(self) -> str:
        """File name of the tar."""
        return f"{self.number:06d}.tar"

    def to_json(self) -> str:
        """The layout as text, as it travels to a worker."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardLayout:
        """Parse the text of `to_json`."""
        fields = json.loads(text)
        segments = (Segment(**s | {"provenance": Provenance(**s["provenance"])}) for s in fields.pop("segments"))
        return cls(segments=tuple(segments), **fields)


@dataclasses.dataclass(frozen=True)
class BucketLayout:
    """The shards of one bucket."""

    resolution: int
    """Nominal resolution (256 for 256p) that the bucket belongs to."""
    shards: list[ShardLayout]


@dataclasses.dataclass(frozen=True)
class EncodeLayout:
    """The shards to write."""

    buckets: list[BucketLayout]
    """One per bucket that has segments."""
    unused: Counter[str]
    """Reason -> clips that give no sample."""
    leftover_s: float
    """Seconds of video in no segment."""


def lay_out(
    config: EncodeConfig, clips: list[dict[str, Any]], latent_shape: Callable[[int, int, int], Sequence[int]]
) -> EncodeLayout:
    """Lay out segments and shards at every resolution.

    Args:
        config: which segments are wanted.
        clips: rows of clips.parquet.
        latent_shape: the TAE's (C, T, H, W) for a sample of so many frames, height and width.

    Raises:
        ValueError: no clip yields a segment.
    """
    buckets: list[BucketLayout] = []
    unused: Counter[str] = Counter()
    leftover_s = 0.0
    for resolution, lengths in config.lengths().items():
        found = cut_segments(
            clips,
            resolution=resolution,
            frames=sorted(lengths),
            fps=config.fps,
            aspect_ratios=config.aspect_ratios,
            max_per_clip=config.max_windows_per_clip,
            max_upscale=config.max_upscale,
            serve_shorter=config.serve_shorter,
        )
        unused.update({f"{resolution}p: {reason}": n for reason, n in found.unused.items()})
        leftover_s += found.leftover_s
        for bucket, segments in found.segments.items():
            if segments:
                shape = latent_shape(bucket.frames, bucket.height, bucket.width)
                shards = split_into_shards(bucket, segments, shape, config.dtype, config.shard_mb)
                buckets.append(BucketLayout(resolution, shards))
    if not buckets:
        why = "; ".join(f"{n} {reason}" for reason, n in unused.items()) or "it has no clips"
        raise ValueError(
            f"--curated: no clip of {config.curated} yields a sample ({why}); change --frames or --resolution"
        )
    return EncodeLayout(buckets, unused, leftover_s)


def split_into_shards(
    bucket: Bucket, segments: Sequence[Segment], latent_shape: Sequence[int], dtype: str, shard_mb: float
) -> list[ShardLayout]:
    """Split a bucket's segments into shards of about `shard_mb` megabytes; a sample's size is known beforehand.

    Args:
        bucket: the bucket of all segments.
        segments: in the order of their keys.
        latent_shape: (C, T, H, W) of each sample's latent.
        dtype: storage dtype of the latents.
        shard_mb: megabytes per shard.
    """
    sample_bytes = math.prod(latent_shape) * DTYPES[dtype].itemsize + MEMBER_OVERHEAD
    per_shard = max(1, int(shard_mb * 1e6 / sample_bytes))
    return [
        ShardLayout(bucket=bucket.name, number=i // per_shard, segments=tuple(segments[i : i + per_shard]))
        for i in range(0, len(segments), per_shard)
    ]
