"""Encode curated clips: python jobs/encode.py --curated DIR --tae DIR --output DIR"""

from data_prep.encode.config import EncodeConfig
from data_prep.encode.job import encode
from data_prep.media.errors import INTERNAL
from lingen.io.progress import length
from pipelines.cli import main, table
from pipelines.tracking import flatten, log_outcome


def run(config: EncodeConfig) -> None:
    """Encode, log to MLflow and print the closing tables."""
    summary = encode(config)
    print(table(summary.rows(), ("bucket", "clips", "samples", "video", "shards", "MB", "canary PSNR")))
    print(table(summary.stage_rows(), ("stage", "clips", "samples", "video", "passes")))
    log_outcome(config.output, "lingen-encode", flatten(config.content()), summary.numbers(), [])
    print(f"{summary.samples} samples in {config.output}; {length(summary.leftover_hours)} of video in no sample")
    for reason, count in sorted(summary.unused.items()):
        print(f"not used: {count} clips, {reason}")
    for reason, count in sorted(summary.errors.items()):
        if reason != INTERNAL:
            print(f"error: {count} samples, {reason} (errors.parquet)")
    if count := summary.internal_errors:
        print(f"internal error: {count} samples; a bug of ours, please report it (errors.parquet has its replay)")
    for warning in summary.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    main(EncodeConfig, run)
