"""The summary of an encoding run: the closing table, the numbers for MLflow, and warnings ahead of training."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.encode.layout import BucketLayout
from data_prep.media.errors import INTERNAL
from lingen.data.buckets import Bucket
from lingen.io.manifest import read_manifest
from lingen.io.progress import length
from lingen.model.stages import ALL_STAGES


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketSummary:
    """Counts of one bucket."""

    name: str
    resolution: int
    clips: int
    samples: int
    seconds: float
    """Of video in all samples."""
    shards: int
    bytes: int
    """Of latents."""
    canaries: tuple[tuple[str, float], ...]
    """(key, PSNR in dB) of the samples that were decoded again."""

    @classmethod
    def from_rows(cls, name: str, resolution: int, rows: Sequence[dict[str, Any]]) -> BucketSummary:
        """Count the rows of the bucket's latent index."""
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
    def from_layout(cls, layout: BucketLayout) -> BucketSummary:
        """Count what the bucket will hold if nothing fails."""
        sources = [segment.provenance for shard in layout.shards for segment in shard.segments]
        return cls(
            name=layout.shards[0].bucket,
            resolution=layout.resolution,
            clips=len({source.clip_id for source in sources}),
            samples=len(sources),
            seconds=sum(source.end_s - source.start_s for source in sources),
            shards=len(layout.shards),
            bytes=0,
            canaries=(),
        )

    @property
    def psnr(self) -> float:
        """Median PSNR of the canaries in dB; nan without any."""
        return statistics.median(psnr for _, psnr in self.canaries) if self.canaries else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSummary:
    """What one stage of training gets: all buckets of a resolution and a length."""

    name: str
    resolution: int
    frames: int
    batch: int = 0
    """Samples per step in the paper's stage; 0 when unknown."""
    steps: int = 0
    """Steps of the paper's stage; 0 when unknown."""
    clips: int = 0
    samples: int = 0
    hours: float = 0.0

    def recounted(self, buckets: Iterable[BucketSummary]) -> StageSummary:
        """The same stage with the counts of these buckets."""
        own = [b for b in buckets if (b.resolution, Bucket.parse(b.name).frames) == (self.resolution, self.frames)]
        return dataclasses.replace(
            self,
            clips=sum(b.clips for b in own),
            samples=sum(b.samples for b in own),
            hours=sum(b.seconds for b in own) / 3600,
        )

    @property
    def passes(self) -> float:
        """How often the stage's training sees each sample; nan when its steps are unknown."""
        return self.steps * self.batch / self.samples if self.steps and self.samples else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeSummary:
    """Counts of one run, as kept in its manifest."""

    buckets: list[BucketSummary]
    stages: list[StageSummary]
    errors: dict[str, int]
    """Reason -> rows of errors.parquet."""
    unused: dict[str, int]
    """Reason -> clips that give no sample."""
    leftover_hours: float
    """Video in no sample."""
    warnings: list[str]
    seconds: float
    """How long the run took."""

    @classmethod
    def from_folder(cls, folder: str | Path) -> EncodeSummary:
        """Read the summary of a finished folder.

        Raises:
            ValueError: the manifest has none.
        """
        manifest = read_manifest(folder)
        assert manifest is not None, f"{folder} is not finished"
        try:
            fields = manifest["outputs"]["summary"]
            buckets = [
                BucketSummary(**b | {"canaries": tuple(map(tuple, b["canaries"]))}) for b in fields.pop("buckets")
            ]
            stages = [StageSummary(**s) for s in fields.pop("stages")]
            return cls(buckets=buckets, stages=stages, **fields)
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"{folder}: its manifest.json has no summary of jobs/encode.py; encode it again") from None

    @property
    def samples(self) -> int:
        """Samples in all buckets."""
        return sum(b.samples for b in self.buckets)

    @property
    def internal_errors(self) -> int:
        """Error rows that are our fault, not that of the clips."""
        return self.errors.get(INTERNAL, 0)

    def numbers(self) -> dict[str, float]:
        """Flat names and numbers for MLflow."""
        found: dict[str, float] = {
            "samples": self.samples,
            "hours": sum(b.seconds for b in self.buckets) / 3600,
            "errors": sum(self.errors.values()),
            "internal_errors": self.internal_errors,
            "leftover_hours": self.leftover_hours,
            "shards": sum(b.shards for b in self.buckets),
            "latent_megabytes": sum(b.bytes for b in self.buckets) / 1e6,
            "seconds": self.seconds,
        }
        canaries = [psnr for b in self.buckets for _, psnr in b.canaries]
        return found | ({"canary_psnr_median": statistics.median(canaries)} if canaries else {})

    def rows(self) -> list[tuple[str | float, ...]]:
        """Rows of the closing table: bucket, clips, samples, length, shards, MB, canary PSNR."""
        return [
            (
                *(b.name, b.clips, b.samples, length(b.seconds / 3600), b.shards, round(b.bytes / 1e6, 1)),
                f"{b.psnr:.1f} dB",
            )
            for b in self.buckets
        ]

    def stage_rows(self) -> list[tuple[str | float, ...]]:
        """Rows of the table of stages: stage, clips, samples, length, passes over them (in the paper's steps)."""
        return [
            (s.name, s.clips, s.samples, length(s.hours), f"{s.passes:.3g}" if s.steps else "") for s in self.stages
        ]


def summarize_stages(
    stages: Iterable[str], lengths: Mapping[int, set[int]], buckets: Sequence[BucketSummary]
) -> list[StageSummary]:
    """Summarise what each stage gets from some buckets.

    Quality tuning trains on a reviewed part of its samples, not known here: it counts by its length alone.

    Args:
        stages: names of the stages that are encoded for.
        lengths: resolution -> encoded lengths; those of no named stage get a row each.
        buckets: what to count.
    """
    named = [stage for stage in (ALL_STAGES[name] for name in stages) if not stage.quality_clips]
    found = [
        StageSummary(name=s.name, resolution=s.resolution, frames=s.frames, batch=s.batch, steps=s.steps) for s in named
    ]
    covered = {(s.resolution, s.frames) for s in found}
    for resolution, of_resolution in sorted(lengths.items()):
        for frames in sorted(of_resolution):
            if (resolution, frames) not in covered:
                what = "images" if frames == 1 else f"videos of {frames} frames"
                found.append(StageSummary(name=f"{what} at {resolution}p", resolution=resolution, frames=frames))
    return [stage.recounted(buckets) for stage in found]


def canary_alarms(min_psnr: float, buckets: Iterable[BucketSummary]) -> list[str]:
    """One alarm per bucket with canaries below `min_psnr` dB, or 10 dB below the bucket's median."""
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


def caption_warnings(buckets: Iterable[BucketLayout]) -> list[str]:
    """One warning that counts the samples without a caption, if there are any."""
    captions = [g.provenance.caption for bucket in buckets for shard in bucket.shards for g in shard.segments]
    empty = sum(not caption.strip() for caption in captions)
    if not empty:
        return []
    return [
        f"{empty} of {len(captions)} samples have no caption: a model learns nothing about prompts from them "
        "(jobs/curate.py drops such clips without --caption.missing keep)"
    ]


def stage_warnings(stages: Sequence[StageSummary], serve_shorter: bool) -> list[str]:
    """One warning per stage with no sample or less than one batch, before training finds out."""
    warnings = []
    for stage in stages:
        if stage.samples >= max(1, stage.batch):
            continue
        lack = f"{stage.samples} samples are less than one batch of {stage.batch}" if stage.samples else "no sample"
        longest = max(s.frames for s in stages if s.resolution == stage.resolution)
        shorter = 1 < stage.frames < longest and not serve_shorter
        warnings.append(f"{stage.name}: {lack}{'; --serve-shorter cuts long clips for it too' if shorter else ''}")
    return warnings
