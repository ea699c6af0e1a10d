"""Remove samples from encoded shards: python jobs/takedown.py --shards DIR --takedown LIST.csv [--output DIR]"""

from data_prep.encode.takedown import ShardTakedownConfig, take_down
from pipelines import cli


def run(config: ShardTakedownConfig) -> None:
    """Print what the takedown affects, and write the shards without it if asked to."""
    affected = take_down(config)
    if affected.samples:
        print(cli.table(affected.shards(), header=("bucket", "shard", "samples to remove")))
        print()
        print(cli.table([(key, reason) for _, _, key, reason in affected.samples], header=("sample", "reason")))
    for path in affected.runs:
        print(f"trained on these shards, or started from such a run: {path}")
    print(f"\n{len(affected.samples)} samples in {len(affected.shards())} shards, {len(affected.runs)} training runs")
    if config.output:
        print(f"shards without them: {config.output}; delete {config.shards} when nothing reads it any more")


if __name__ == "__main__":
    cli.main(ShardTakedownConfig, run)
