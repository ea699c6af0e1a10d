"""Curate clips: python jobs/curate.py --input DIR_OR_MANIFEST --output DIR"""

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq

from data_prep.curate.config import CurateConfig
from data_prep.curate.job import curate, estimate_run, what_if
from data_prep.curate.ledger import FINAL
from data_prep.curate.story import why_nothing_was_kept
from data_prep.media.errors import INTERNAL
from lingen.io.manifest import require_manifest
from lingen.io.progress import length
from lingen.io.redact import printable, redact
from pipelines import cli
from pipelines.tracking import dataset, flatten, log_outcome


def run(config: CurateConfig) -> None:
    """Estimate, try other thresholds, or curate, as the flags say."""
    if config.estimate:
        print_estimate(config)
    elif config.what_if:
        choices = [
            (c.rule, c.threshold, "<" if c.configured else "", c.clips, length(c.hours)) for c in what_if(config)
        ]
        print(cli.table(choices, header=("threshold", "value", "now", "clips", "video")))
        print("\nclips that pass all thresholds, with one of them changed; near-duplicates are decided later")
    else:
        summary = curate(config)
        print(cli.table(summary.rows(), header=("curation", "")))
        numbers = {name: value for name, value in dataclasses.asdict(summary).items() if not isinstance(value, dict)}
        numbers |= {f"reason/{reason}": count for reason, count in summary.reasons.items()}
        report = config.output / "report.html"
        params = {"input": config.input, "filter": dataclasses.asdict(config.filter)}
        log_outcome(config.output, "lingen-curate", flatten(params), numbers, [report], datasets(config, numbers))
        for detail in internal_errors(config.output)[:3]:
            print(f"\ninternal error, a bug of ours, please report it: {printable(detail)}")
        for line in ["", *advice] if (advice := why_nothing_was_kept(config.output)) else []:
            print(printable(line))
        print(f"\nclips: {config.output}/clips.parquet   all decisions: ledger.parquet   report: report.html")


def internal_errors(folder: Path) -> list[str]:
    """What the ledger says of each failure that is a bug of ours: where, and how to replay it."""
    ours = [("reason", "=", INTERNAL), ("stage", "!=", FINAL)]
    return pq.read_table(folder / "ledger.parquet", columns=["detail"], filters=ours)["detail"].to_pylist()


def datasets(config: CurateConfig, numbers: dict[str, float]) -> list[dict]:
    """Describe the data sets that went in and came out, by the digests in the output's manifest."""
    done, source = require_manifest(config.output, "curate", "--output"), redact(config.input)
    clips = (config.output / "clips.parquet").resolve()
    kept = {"clips": numbers["kept"], "hours": numbers["hours_kept"]}
    return [
        dataset(Path(source).name, source, done["inputs"]["source"], "source", {"rows": numbers["inputs"]}),
        dataset(config.output.name, str(clips), done["outputs"]["clips.parquet"], "curated", kept),
    ]


def print_estimate(config: CurateConfig) -> None:
    """Print how long the whole run will take."""
    found = estimate_run(config)
    size = f"{found.gigabytes:.1f} GB" if found.gigabytes >= 1 else f"{1000 * found.gigabytes:.1f} MB"
    print(cli.table(found.rows(), header=("stage", "s per file", "share")))
    for detail in found.internal_errors[:3]:
        print(f"\ninternal error, a bug of ours, please report it: {printable(detail)}")
    print(
        f"\n{found.sampled} files measured ({found.failed} unusable, {length(found.video_hours)} of video, "
        f"{size}); slowest stage: {found.bottleneck}\n"
        f"all {found.total_files} files with {found.workers} workers: about {length(found.hours)}"
    )


if __name__ == "__main__":
    cli.main(CurateConfig, run)
