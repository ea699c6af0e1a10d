"""Encoded shards without what must go: a new folder that shares all shards that are not touched (hard links where
possible) and holds the others rewritten; and which training runs have seen it.

The new folder's indexes have other digests, so a training run of the old one refuses to go on with it by mistake.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.curate.takedown import Takedown, content_of
from data_prep.encode.job import index_digests
from data_prep.encode.retext import share
from data_prep.encode.summary import BucketSummary, StageSummary
from data_prep.encode.texts import text_tree
from lingen.data.shard_index import INDEX, read_index, samples_digest, write_index
from lingen.data.shards import LATENT, METADATA, TEXT, DamagedSample, ShardWriter, checksum, unpack_metadata
from lingen.io.byte_ranges import ByteRanges, Scratch
from lingen.io.manifest import CONFIG, OutputFolder, read_json, read_manifest, require_manifest

MEMBERS_OF_LATENTS = (LATENT, ""), (METADATA, "metadata_")
MEMBERS_OF_TEXT = ((TEXT, ""),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardTakedownConfig:
    """List what a takedown touches in encoded shards and training runs, and rewrite the shards without it."""

    shards: Path
    """Output folder of jobs/encode.py."""
    takedown: Path
    """CSV of what must go: columns content (hash, clip_id or sample key), uri, source, license, attribution, detail."""
    output: Path | None = None
    """Folder for the shards without it; none: only list what is touched."""
    runs: tuple[Path, ...] = ()
    """Folders in which to look for training runs that have seen these shards."""
    overwrite: bool = False
    """Replace a folder made from another list."""


@dataclasses.dataclass(frozen=True)
class Touched:
    """samples: (bucket, shard, key, why); runs: folders of training runs on these shards, or begun from one of them."""

    samples: list[tuple[str, str, str, str]]
    runs: list[Path]

    def shards(self) -> list[tuple[str, str, int]]:
        """(bucket, shard, samples that go)."""
        names = [(bucket, shard) for bucket, shard, _, _ in self.samples]
        return [(*name, names.count(name)) for name in sorted(set(names))]


def take_down(config: ShardTakedownConfig) -> Touched:
    """Find what is touched and, with an output, write the folder without it.

    Raises:
        ValueError: bad configuration, before any work; or nothing would be left.
    """
    started = time.time()
    takedown = Takedown.read(config.takedown)
    source = require_manifest(config.shards, "encode", "--shards")
    touched = Touched(list(_samples(config.shards, takedown)), runs_on(config.runs, source))
    if config.output is None:
        return touched
    inputs = source["inputs"] | {"takedown": takedown.digest, "shards": samples_digest(source)}
    folder = OutputFolder.open(config.output, "encode", source["config"], inputs, overwrite=config.overwrite)
    if not folder.finished:
        gone = {key for _, _, key, _ in touched.samples}
        share(config.shards / "tae", folder.path / "tae")
        _copy_errors(config.shards, folder.path, gone)
        kept = {
            bucket.name: _rewrite(config.shards, folder.path, bucket.name, gone) for bucket in _buckets(config.shards)
        }
        before = {b["name"]: b for b in source["outputs"]["summary"]["buckets"]}
        buckets = [BucketSummary.of_rows(n, before[n]["resolution"], rows) for n, rows in kept.items() if rows]
        if not buckets:
            raise ValueError(f"--takedown: nothing of {config.shards} is left; delete the folder instead")
        stages = [StageSummary(**stage).recounted(buckets) for stage in source["outputs"]["summary"]["stages"]]
        summary = source["outputs"]["summary"] | {
            "buckets": buckets,
            "stages": stages,
            "seconds": time.time() - started,
        }
        folder.publish(index_digests(folder.path) | {"summary": summary}, started)
    return touched


def runs_on(folders: Sequence[Path], encoded: dict) -> list[Path]:
    """Training runs below some folders that drew from the shards of this manifest, or began from such a run."""
    runs = {p.parent: read_json(p) for root in folders for p in sorted(Path(root).rglob(CONFIG))}
    runs = {path: claim for path, claim in runs.items() if isinstance(claim, dict) and claim.get("job") == "train"}
    found = [path for path, claim in runs.items() if claim["inputs"].get("shards") == samples_digest(encoded)]
    for path in found:  # grows while it is walked
        model = ((read_manifest(path) or {}).get("outputs") or {}).get("model")
        found += [p for p, c in runs.items() if model and c["inputs"].get("init") == model and p not in found]
    return found


def _buckets(folder: Path) -> list[Path]:
    return sorted(p.parent for p in Path(folder, "latents").glob(f"*/{INDEX}"))


def _samples(folder: Path, takedown: Takedown) -> Iterable[tuple[str, str, str, str]]:
    files, scratch = ByteRanges.open(folder), Scratch()
    for bucket in _buckets(folder):
        table, _ = read_index(bucket / INDEX)
        for row in table.to_pylist():
            about = {"content": row["clip_id"], "source": row["source"], "license": row["license"]}
            if takedown.uses("uri", "attribution"):  # these are in the sample alone
                where = f"latents/{bucket.name}/{row['shard']}", row["metadata_offset"], row["metadata_size"]
                about |= unpack_metadata(files.read(*where, scratch))
            why = takedown.detail(about)
            if why is not None:
                yield bucket.name, row["shard"], row["key"], why


def _rewrite(old: Path, new: Path, bucket: str, gone: set[str]) -> list[dict]:
    """One bucket's trees without the samples `gone`; the index rows of the latents that stay."""
    kept = []
    trees = {text_tree(encoder.name): MEMBERS_OF_TEXT for encoder in sorted(Path(old, "text").iterdir())}
    for tree, members in {"latents": MEMBERS_OF_LATENTS, **trees}.items():
        table, form = read_index(old / tree / bucket / INDEX)
        stays = np.array([key not in gone for key in table["key"].to_pylist()])
        touched = set(table.filter(pa.array(~stays))["shard"].to_pylist())
        rows = []
        for row in table.filter(pa.array(stays)).to_pylist():
            if row["shard"] not in touched:
                rows.append(row)
        for shard in sorted({*table["shard"].to_pylist()} - touched):
            share(old / tree / bucket / shard, new / tree / bucket / shard)
        for shard in sorted(touched):
            here = [r for r in table.filter(pa.array(stays)).to_pylist() if r["shard"] == shard]
            rows += _rewrite_shard(old / tree / bucket / shard, new / tree / bucket / shard, here, members)
        order = {key: i for i, key in enumerate(table["key"].to_pylist())}
        rows.sort(key=lambda row: order[row["key"]])
        if rows:
            write_index(new / tree / bucket / INDEX, rows, form)
        kept = kept or rows
    return kept


def _rewrite_shard(old: Path, new: Path, rows: list[dict], members) -> list[dict]:
    """A tar with the samples of some index rows alone; the rows with their new places."""
    if not rows:
        return []
    out = []
    with open(old, "rb") as file, ShardWriter(new) as tar:
        for row in rows:
            changed = dict(row)
            for extension, prefix in members:
                file.seek(row[prefix + "offset"])
                data = file.read(row[prefix + "size"])
                if checksum(data) != row[prefix + "checksum"]:
                    raise DamagedSample(f"{old}: {row['key']}.{extension} is damaged; run jobs/encode.py again first")
                changed |= tar.add(row["key"], extension, data).columns(prefix)
            out.append(changed)
    return out


def _copy_errors(old: Path, new: Path, gone: set[str]) -> None:
    """errors.parquet without the clips that go."""
    contents = {content_of(key) for key in gone}
    table = pq.read_table(old / "errors.parquet")
    stays = [content_of(clip) not in contents for clip in table["clip_id"].to_pylist()]
    pq.write_table(table.filter(pa.array(stays, pa.bool_())), new / "errors.parquet")
