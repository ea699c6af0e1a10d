"""What encoding made: the closing table, the numbers for MLflow, and warnings that come before training does."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.encode.segments import ShardPlan
from lingen.data.buckets import Bucket
from lingen.io.manifest import read_manifest
from lingen.model.stages import ALL_STAGES


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketSummary:
    """One bucket: clips, samples, seconds of video, shards, bytes of latents, (key, PSNR in dB) of its canaries."""

    name: str
    resolution: int
    clips: int
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
            clips=len({row["clip_id"] for row in rows}),
            samples=len(rows),
            seconds=sum(row["seconds"] for row in rows),
            shards=len({row["shard"] for row in rows}),
            bytes=sum(row["size"] for row in rows),
            canaries=tuple((row["key"], row["canary_psnr"]) for row in rows if row["canary_psnr"] is not None),
        )

    @classmethod
    def of_plan(cls, resolution: int, shards: Sequence[ShardPlan]) -> BucketSummary:
        """What the bucket will have when nothing fails."""
        sources = [window.provenance for shard in shards for window in shard.windows]
        return cls(
            name=shards[0].bucket,
            resolution=resolution,
            clips=len({source.clip_id for source in sources}),
            samples=len(sources),
            seconds=sum(source.end_s - source.start_s for source in sources),
            shards=len(shards),
            bytes=0,
            canaries=(),
        )

    @property
    def psnr(self) -> float:
        """Median of the canaries, dB; nan without any."""
        return statistics.median(psnr for _, psnr in self.canaries) if self.canaries else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSummary:
    """What one stage of training gets: all buckets of a resolution and a length.

    Fields: name; batch and steps, of the paper's stage, or 0; clips, samples and hours of video.
    """

    name: str
    resolution: int
    frames: int
    batch: int = 0
    steps: int = 0
    clips: int = 0
    samples: int = 0
    hours: float = 0.0

    def recounted(self, buckets: Iterable[BucketSummary]) -> StageSummary:
        """The same stage over these buckets."""
        own = [b for b in buckets if (b.resolution, Bucket.parse(b.name).frames) == (self.resolution, self.frames)]
        return dataclasses.replace(
            self,
            clips=sum(b.clips for b in own),
            samples=sum(b.samples for b in own),
            hours=sum(b.seconds for b in own) / 3600,
        )

    @property
    def passes(self) -> float:
        """How often the stage's training shows a sample; nan when its steps are not known."""
        return self.steps * self.batch / self.samples if self.steps and self.samples else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeSummary:
    """Counts of one run. errors: reason -> samples; unused: reason -> clips; leftover: video in no sample."""

    buckets: list[BucketSummary]
    stages: list[StageSummary]
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
        stages = [StageSummary(**s) for s in kept.pop("stages")]
        return cls(buckets=buckets, stages=stages, **kept)

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
        """The closing table: bucket, clips, samples, hours, shards, MB, canary PSNR."""
        return [
            (
                *(b.name, b.clips, b.samples, round(b.seconds / 3600, 4), b.shards, round(b.bytes / 1e6, 1)),
                f"{b.psnr:.1f} dB",
            )
            for b in self.buckets
        ]

    def stage_rows(self) -> list[tuple]:
        """What each stage gets: stage, clips, samples, hours, passes over them (of the paper's steps)."""
        return [
            (s.name, s.clips, s.samples, round(s.hours, 4), f"{s.passes:.3g}" if s.steps else "") for s in self.stages
        ]


def stages_of(
    stages: Iterable[str], groups: Mapping[int, set[int]], buckets: Iterable[BucketSummary]
) -> list[StageSummary]:
    """What every stage that is encoded for gets; of lengths that no named stage is of, a row each.

    Quality tuning trains on a reviewed part of its samples, not known here: it counts by its length alone.
    """
    named = [stage for stage in map(ALL_STAGES.get, stages) if not stage.quality_clips]
    found = [
        StageSummary(name=s.name, resolution=s.resolution, frames=s.frames, batch=s.batch, steps=s.steps) for s in named
    ]
    covered = {(s.resolution, s.frames) for s in found}
    for resolution, lengths in sorted(groups.items()):
        for frames in sorted(lengths):
            if (resolution, frames) not in covered:
                what = "images" if frames == 1 else f"videos of {frames} frames"
                found.append(StageSummary(name=f"{what} at {resolution}p", resolution=resolution, frames=frames))
    return [stage.recounted(buckets) for stage in found]


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


def stage_warnings(stages: Sequence[StageSummary], serve_shorter: bool) -> list[str]:
    """Stages without a sample, or with less than one batch, before training finds out."""
    warnings = []
    for stage in stages:
        if stage.samples >= max(1, stage.batch):
            continue
        lack = f"{stage.samples} samples are less than one batch of {stage.batch}" if stage.samples else "no sample"
        longest = max(s.frames for s in stages if s.resolution == stage.resolution)
        shorter = 1 < stage.frames < longest and not serve_shorter
        warnings.append(f"{stage.name}: {lack}{'; --serve-shorter cuts long clips for it too' if shorter else ''}")
    return warnings
