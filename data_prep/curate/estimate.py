"""How long a curation will take on this machine: a sample is measured and extrapolated to all files."""

from __future__ import annotations

import dataclasses
import random
import time

import pyarrow as pa

from data_prep.measure.aesthetic import AestheticConfig, Scorer
from data_prep.measure.examine import STAGES, ExamineConfig, examine
from data_prep.media.errors import MediaError
from data_prep.media.fetch import content_hash, local_copy


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measured sample, and the time predicted for all files."""

    seconds: dict[str, float]
    """Per stage, summed over the sample."""
    sampled: int
    failed: int
    """Files of the sample that could not be measured."""
    gigabytes: float
    """Of the sample."""
    video_hours: float
    """Of the sample."""
    total_files: int
    workers: int
    hours: float
    """Predicted for all files with `workers` at once."""

    @property
    def bottleneck(self) -> str:
        """The slowest stage."""
        return max(self.seconds, key=lambda stage: self.seconds[stage])

    def rows(self) -> list[tuple[str, float, str]]:
        """(stage, seconds per file, share of the time) of every stage."""
        whole = sum(self.seconds.values()) or 1.0
        per = {stage: value / max(1, self.sampled) for stage, value in self.seconds.items()}
        return [(stage, round(per[stage], 4), f"{100 * self.seconds[stage] / whole:.0f}%") for stage in self.seconds]


def estimate(
    uris: list[str],
    sample: int,
    config: ExamineConfig,
    workers: int,
    aesthetic: AestheticConfig | None = None,
    seed: int = 0,
) -> Estimate:
    """Measure some of the files, one after another, in this process.

    Args:
        uris: of all files.
        sample: number of files to measure.
        config: how files are examined.
        workers: files that the whole run will decode at once.
        aesthetic: the model, timed too where it is enabled.
        seed: a different seed draws a different sample.
    """
    files = sorted(set(uris))
    chosen = random.Random(seed).sample(files, min(sample, len(files)))
    seconds = dict.fromkeys(("fetch and hash", *STAGES), 0.0)
    failed, size, duration = 0, 0, 0.0
    stills = []
    for uri in chosen:
        started = time.perf_counter()
        try:
            with local_copy(uri) as path:
                content_hash(path)
                fetched = time.perf_counter()
                seconds["fetch and hash"] += fetched - started
                row, jpegs = examine(path, config)
        except MediaError:
            failed += 1
            continue
        size += row["bytes"]
        duration += row["duration_s"]
        stills.append(jpegs)
        for stage in STAGES:
            seconds[stage] += row[f"{stage}_s"]
    per_file = len(files) / max(1, len(chosen))
    hours = sum(seconds.values()) * per_file / workers / 3600
    if aesthetic and aesthetic.enabled and stills:
        scorer = Scorer(aesthetic, pa.array([], pa.string()))
        scorer.embed(stills[0][:1])  # the first call is slow
        started = time.perf_counter()
        for jpegs in stills:
            scorer.embed(jpegs)
        seconds["aesthetic"] = time.perf_counter() - started
        hours += seconds["aesthetic"] * per_file / aesthetic.workers / 3600
    return Estimate(seconds, len(chosen), failed, size / 1e9, duration / 3600, len(files), workers, hours)
