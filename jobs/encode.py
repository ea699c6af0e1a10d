"""Encode curated clips: python jobs/encode.py --curated DIR --tae DIR --output DIR"""

from data_prep.encode.config import EncodeConfig
from data_prep.encode.job import encode
from pipelines.cli import main, table
from pipelines.tracking import flatten, log_outcome


def run(config: EncodeConfig) -> None:
    summary = encode(config)
    print(table(summary.rows(), ("bucket", "clips", "samples", "hours", "shards", "MB", "canary PSNR")))
    print(table(summary.stage_rows(), ("stage", "clips", "samples", "hours", "passes")))
    log_outcome(config.output, "lingen-encode", flatten(config.content()), summary.numbers(), [])
    print(f"{summary.samples} samples in {config.output}; {summary.leftover_hours:.3f} h of video in no sample")
    for reason, count in sorted(summary.unused.items()):
        print(f"not used: {count} clips, {reason}")
    for reason, count in sorted(summary.errors.items()):
        print(f"error: {count} samples, {reason} (errors.parquet)")
    for warning in summary.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    main(EncodeConfig, run)
