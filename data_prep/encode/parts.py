"""Parts: one small JSON file per finished shard with its index rows, from which a killed job resumes.

OUTPUT/parts/TREE/BUCKET/000000.json (TREE is latents or text/ENCODER) is written after its tar. All parts are merged
into index.parquet, and removed when the output folder is finished.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.media.errors import INTERNAL
from lingen.io.job_files import PART_FILES, remove_files
from lingen.io.manifest import read_json, write_json

PARTS, IN_HAND = "parts", ".in_hand"
DEATHS = 3
"""After so many deaths of a worker the batch that it had in hand is encoded one by one; after one more, not at all."""


def part_path(output: str | Path, tree: str, bucket: str, shard: str) -> Path:
    """The part of a shard named like 000000.tar."""
    return Path(output, PARTS, tree, bucket, shard).with_suffix(".json")


def write_part(output: str | Path, tree: str, bucket: str, shard: str, content: dict[str, Any]) -> None:
    """Write a shard's part: "rows", its index rows, and whatever else the tree's index needs."""
    write_json(part_path(output, tree, bucket, shard), content)


def is_done(output: str | Path, tree: str, bucket: str, shard: str) -> bool:
    """Whether a shard is finished: with internal errors it is not, since the next run may be one of better code."""
    if not part_path(output, tree, bucket, shard).is_file():
        return False
    return all(row["reason"] != INTERNAL for row in read_part(output, tree, bucket, shard).get("errors", []))


def read_part(output: str | Path, tree: str, bucket: str, shard: str) -> dict[str, Any]:
    """Read the content given to `write_part`."""
    return read_json(part_path(output, tree, bucket, shard))


def remove_parts(output: str | Path) -> None:
    """Remove the parts of all shards; what else is beside them stays."""
    with contextlib.suppress(OSError):
        remove_files(Path(output, PARTS), PART_FILES)
        Path(output, PARTS).rmdir()


def forget_texts(output: str | Path, bucket: str, shard: str) -> None:
    """Remove the parts of a shard's text: its latents are made again, and may have other samples then."""
    for path in Path(output, PARTS, "text").glob(f"*/{bucket}/{Path(shard).with_suffix('.json')}"):
        path.unlink()


class InHand:
    """What a worker has in hand, kept beside its shard's part: what workers die with is known thereby.

    Ray starts a worker that died again, with the same shard: a sample that kills it would do so for ever.

    Attributes:
        deaths: key -> how many workers have died with this sample (or shard) in hand, in this run of the job.
    """

    def __init__(self, output: str | Path, tree: str, bucket: str, shard: str):
        self._path = part_path(output, tree, bucket, shard).with_suffix(IN_HAND)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.deaths: Counter[str] = Counter()
        with contextlib.suppress(OSError, ValueError):  # nobody died yet, or within the write
            self.deaths.update(json.loads(self._path.read_text()))

    def take(self, keys: Iterable[str]) -> None:
        """Have these samples in hand and no others. Not synced to disk: a process may die here, not the machine."""
        self._path.write_text(json.dumps(self.deaths + Counter(keys)))

    def close(self) -> None:
        """The shard is finished."""
        self._path.unlink(missing_ok=True)


def forget_deaths(output: str | Path) -> None:
    """Start a run of the job: what killed the last one was not one of its samples."""
    for path in Path(output, PARTS).rglob(f"*{IN_HAND}"):
        path.unlink()
