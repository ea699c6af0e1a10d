"""What encoding made: the closing table, the numbers for MLflow, and warnings that come before training does."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lingen.buckets import Bucket
from lingen.manifest import read_manifest
from lingen.stages import ALL_STAGES


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketSummary:
    """One bucket: samples, seconds of video, shards, bytes of latents, (key, PSNR in dB) of its canaries."""

    name: str
    resolution: int
    samples: int
    seconds: float
    shards: int
    bytes: int
    canaries: tuple[tuple[str, float], ...]

    @classmethod
    def of_rows(cls, name: str, resolution: int, rows: Sequence[dict]) -> BucketSummary:
        return cls(
            name=name,
            resolution=resolution,
            samples=len(rows),
            seconds=sum(row["seconds"] for row in rows),
            shards=len({row["shard"] for row in rows}),
            bytes=sum(row["size"] for row in rows),
            canaries=tuple((row["key"], row["canary_psnr"]) for row in rows if row["canary_psnr"] is not None),
        )

    @property
    def psnr(self) -> float:
        """Median of the canaries, dB; nan without any."""
        return statistics.median(psnr for _, psnr in self.canaries) if self.canaries else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeSummary:
    """Counts of one run. errors: reason -> samples; unused: reason -> clips; leftover: video in no sample."""

    buckets: list[BucketSummary]
    errors: dict[str, int]
    unused: dict[str, int]
    leftover_hours: float
    warnings: list[str]
    seconds: float

    @classmethod
    def of_folder(cls, folder: str | Path) -> EncodeSummary:
        """Of a finished folder."""
        kept = read_manifest(folder)["outputs"]["summary"]
        buckets = [BucketSummary(**b | {"canaries": tuple(map(tuple, b["canaries"]))}) for b in kept.pop("buckets")]
        return cls(buckets=buckets, **kept)

    @property
    def samples(self) -> int:
        return sum(b.samples for b in self.buckets)

    def numbers(self) -> dict[str, float]:
        """Flat and named, for MLflow."""
        found = {
            "samples": self.samples,
            "hours": sum(b.seconds for b in self.buckets) / 3600,
            "errors": sum(self.errors.values()),
            "leftover_hours": self.leftover_hours,
            "shards": sum(b.shards for b in self.buckets),
            "latent_megabytes": sum(b.bytes for b in self.buckets) / 1e6,
            "seconds": self.seconds,
        }
        canaries = [psnr for b in self.buckets for _, psnr in b.canaries]
        return found | ({"canary_psnr_median": statistics.median(canaries)} if canaries else {})

    def rows(self) -> list[tuple]:
        """The closing table: bucket, samples, hours, shards, MB, canary PSNR."""
        return [
            (b.name, b.samples, round(b.seconds / 3600, 4), b.shards, round(b.bytes / 1e6, 1), f"{b.psnr:.1f} dB")
            for b in self.buckets
        ]


def canary_alarms(min_psnr: float, buckets: Iterable[BucketSummary]) -> list[str]:
    """Buckets with canaries under `min_psnr` dB, or 10 dB under the bucket's median."""
    alarms = []
    for bucket in buckets:
        floor = max(min_psnr, bucket.psnr - 10) if bucket.canaries else min_psnr
        low = [key for key, psnr in bucket.canaries if psnr < floor]
        if low:
            alarms.append(
                f"{bucket.name}: {len(low)} of {len(bucket.canaries)} canaries decode badly (under {floor:.1f} dB), "
                f"{low[0]} for one; look with jobs/show.py"
            )
    return alarms


def stage_warnings(
    stages: Iterable[str], groups: Mapping[int, set[int]], buckets: Sequence[BucketSummary]
) -> list[str]:
    """Lengths with no sample at all, and stages with less than one batch, before training finds out."""
    have: dict[tuple[int, int], int] = {}
    for b in buckets:
        place = b.resolution, Bucket.parse(b.name).frames
        have[place] = have.get(place, 0) + b.samples
    warnings = []
    for resolution, lengths in groups.items():
        for frames in sorted(lengths):
            if not have.get((resolution, frames)):
                what = "images" if frames == 1 else f"videos of {frames} frames"
                warnings.append(f"no {what} at {resolution}p: stages that need them cannot train")
    for stage in map(ALL_STAGES.get, stages):
        n = have.get((stage.resolution, stage.frames), 0)
        if 0 < n < stage.batch:
            warnings.append(f"{stage.name}: {n} samples are less than one batch of {stage.batch}")
    return warnings
