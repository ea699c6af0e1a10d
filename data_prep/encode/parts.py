"""Parts: one small JSON file per finished shard, with its index rows. They are what a killed job goes on from.

OUTPUT/parts/TREE/BUCKET/000000.json (TREE is latents or text/ENCODER), written after its tar; all of them are merged
into index.parquet, and removed when the output folder is finished.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lingen.io.manifest import read_json, write_json

PARTS = "parts"


def part_path(output: str | Path, tree: str, bucket: str, shard: str) -> Path:
    """Of a shard named like 000000.tar."""
    return Path(output, PARTS, tree, bucket, shard).with_suffix(".json")


def write_part(output: str | Path, tree: str, bucket: str, shard: str, content: dict) -> None:
    """`content` holds "rows", the index rows, and what else the tree's index needs."""
    write_json(part_path(output, tree, bucket, shard), content)


def is_done(output: str | Path, tree: str, bucket: str, shard: str) -> bool:
    return part_path(output, tree, bucket, shard).is_file()


def read_part(output: str | Path, tree: str, bucket: str, shard: str) -> dict:
    """What `write_part` wrote."""
    return read_json(part_path(output, tree, bucket, shard))


def remove_parts(output: str | Path) -> None:
    shutil.rmtree(Path(output, PARTS), ignore_errors=True)
