"""How long a curation will take on this machine: a sample is measured and extrapolated to all files."""

from __future__ import annotations

import dataclasses
import random
import time

import pyarrow as pa

from data_prep.measure.aesthetic import AestheticConfig, Scorer
from data_prep.measure.examine import STAGES, ExamineConfig, examine
from data_prep.measure.run import DecodeConfig, hash_file, start_child
from data_prep.media.errors import INTERNAL, MediaError, internal_error, replay
from data_prep.media.fetch import local_copy
from data_prep.media.isolate import Isolated


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
    internal_errors: list[str] = dataclasses.field(default_factory=list)
    """Details of the failures that are bugs of ours."""

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
    decode: DecodeConfig,
    workers: int,
    aesthetic: AestheticConfig | None = None,
    seed: int = 0,
) -> Estimate:
    """Measure some of the files, one after another, in a child process.

    Args:
        uris: of all files.
        sample: number of files to measure.
        config: how files are examined.
        decode: how files are read.
        workers: files that the whole run will decode at once.
        aesthetic: the model, timed too where it is enabled.
        seed: a different seed draws a different sample.
    """
    files = sorted(set(uris))
    chosen = random.Random(seed).sample(files, min(sample, len(files)))
    seconds = dict.fromkeys(("fetch and hash", *STAGES), 0.0)
    failed, size, duration = 0, 0, 0.0
    stills, bugs = [], []
    child = start_child(config, decode)
    for uri in chosen:
        try:
            row, jpegs = _measure(uri, config, decode, child, seconds)
        except Exception as error:
            failed += 1
            refused = error if isinstance(error, MediaError) else internal_error(error)
            if refused.reason == INTERNAL:
                bugs.append(f"{refused.detail}; replay: {replay(uri)}")
            continue
        size += row["bytes"]
        duration += row["duration_s"]
        stills.append(jpegs)
    child.close()
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
    return Estimate(seconds, len(chosen), failed, size / 1e9, duration / 3600, len(files), workers, hours, bugs)


def _measure(
    uri: str, config: ExamineConfig, decode: DecodeConfig, child: Isolated, seconds: dict[str, float]
) -> tuple[dict, list[bytes]]:
    """What `examine` returns; the time of each stage is added to `seconds`."""
    started = time.perf_counter()
    with local_copy(uri, decode.max_file_gb) as path:
        child.call(hash_file, path, timeout_s=decode.timeout_s)
        seconds["fetch and hash"] += time.perf_counter() - started
        row, jpegs = child.call(examine, path, config, decode.threads, timeout_s=decode.timeout_s)
    for stage in STAGES:
        seconds[stage] += row[f"{stage}_s"]
    return row, jpegs
