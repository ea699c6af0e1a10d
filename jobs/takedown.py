"""Take samples out of encoded shards: python jobs/takedown.py --shards DIR --takedown LIST.csv [--output DIR]"""

from data_prep.encode.takedown import ShardTakedownConfig, take_down
from pipelines import cli


def run(config: ShardTakedownConfig) -> None:
    touched = take_down(config)
    if touched.samples:
        print(cli.table(touched.shards(), header=("bucket", "shard", "samples to go")))
        print()
        print(cli.table([(key, why) for _, _, key, why in touched.samples], header=("sample", "why")))
    for path in touched.runs:
        print(f"trained on these shards, or begun from such a run: {path}")
    print(f"\n{len(touched.samples)} samples in {len(touched.shards())} shards, {len(touched.runs)} training runs")
    if config.output:
        print(f"shards without them: {config.output}; delete {config.shards} when nothing reads it any more")


if __name__ == "__main__":
    cli.main(ShardTakedownConfig, run)
