"""Parts: one small JSON file per finished shard with its index rows, from which a killed job resumes.

OUTPUT/parts/TREE/BUCKET/000000.json (TREE is latents or text/ENCODER) is written after its tar. All parts are merged
into index.parquet, and removed when the output folder is finished.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lingen.io.manifest import read_json, write_json

PARTS = "parts"


def part_path(output: str | Path, tree: str, bucket: str, shard: str) -> Path:
    """The part of a shard named like 000000.tar."""
    return Path(output, PARTS, tree, bucket, shard).with_suffix(".json")


def write_part(output: str | Path, tree: str, bucket: str, shard: str, content: dict[str, Any]) -> None:
    """Write a shard's part: "rows", its index rows, and whatever else the tree's index needs."""
    write_json(part_path(output, tree, bucket, shard), content)


def is_done(output: str | Path, tree: str, bucket: str, shard: str) -> bool:
    """Whether a shard is finished."""
    return part_path(output, tree, bucket, shard).is_file()


def read_part(output: str | Path, tree: str, bucket: str, shard: str) -> dict[str, Any]:
    """Read the content given to `write_part`."""
    return read_json(part_path(output, tree, bucket, shard))


def remove_parts(output: str | Path) -> None:
    """Remove the parts of all shards."""
    shutil.rmtree(Path(output, PARTS), ignore_errors=True)
