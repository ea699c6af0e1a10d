"""Curate clips: python jobs/curate.py --input DIR_OR_MANIFEST --output DIR"""

from data_prep.curate import CurateConfig, curate
from pipelines import cli


def run(config: CurateConfig) -> None:
    summary = curate(config)
    print(cli.table(summary.rows(), header=("curation", "")))
    print(f"\nclips: {config.output}/clips.parquet   every decision: ledger.parquet   to look at: report.html")


if __name__ == "__main__":
    cli.main(CurateConfig, run)
