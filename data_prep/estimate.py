"""How long a curation will take here: a sample is measured, and the rest follows from bytes and counts."""

from __future__ import annotations

import dataclasses
import random
import time

from data_prep.examine import STAGES, ExamineConfig, examine
from data_prep.fetch import content_hash, local_copy
from data_prep.probe import MediaError

ALL_STAGES = ("fetch and hash", *STAGES)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """seconds: per stage over the sample; sampled, failed: files; gigabytes, video_hours: of the sample; total_files;
    hours: predicted for all files with `workers` at once."""

    seconds: dict[str, float]
    sampled: int
    failed: int
    gigabytes: float
    video_hours: float
    total_files: int
    workers: int
    hours: float

    @property
    def bottleneck(self) -> str:
        return max(self.seconds, key=self.seconds.get)

    def rows(self) -> list[tuple[str, float, str]]:
        """stage, seconds per file, share."""
        whole = sum(self.seconds.values()) or 1.0
        per = {stage: value / max(1, self.sampled) for stage, value in self.seconds.items()}
        return [(stage, round(per[stage], 4), f"{100 * self.seconds[stage] / whole:.0f}%") for stage in ALL_STAGES]


def estimate(uris: list[str], sample: int, config: ExamineConfig, workers: int, seed: int = 0) -> Estimate:
    """Measure `sample` of the files, one after another, in this process."""
    chosen = random.Random(seed).sample(sorted(set(uris)), min(sample, len(set(uris))))
    seconds = dict.fromkeys(ALL_STAGES, 0.0)
    failed, size, duration = 0, 0, 0.0
    for uri in chosen:
        started = time.perf_counter()
        try:
            with local_copy(uri) as path:
                content_hash(path)
                fetched = time.perf_counter()
                seconds["fetch and hash"] += fetched - started
                row, _ = examine(path, config)
        except MediaError:
            failed += 1
            continue
        size += row["bytes"]
        duration += row["duration_s"]
        for stage in STAGES:
            seconds[stage] += row[f"{stage}_s"]
    total = len(set(uris))
    hours = sum(seconds.values()) / max(1, len(chosen)) * total / workers / 3600
    return Estimate(seconds, len(chosen), failed, size / 1e9, duration / 3600, total, workers, hours)
