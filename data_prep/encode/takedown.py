"""Takedown from encoded shards: find what is affected, and write a new folder without it.

The new folder shares the shards that are not affected (hard links where possible) and holds the others rewritten. Its
indexes have other digests, so that no training run on the old folder resumes with it by mistake. Training runs that
have seen affected shards are listed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.curate.takedown import Takedown, content_of
from data_prep.encode.job import index_digests
from data_prep.encode.retext import link_or_copy
from data_prep.encode.summary import BucketSummary, StageSummary
from data_prep.encode.texts import text_tree
from lingen.data.index_file import INDEX, read_index, samples_digest, write_index
from lingen.data.shards import LATENT, METADATA, TEXT, DamagedSample, ShardWriter, checksum, unpack_metadata
from lingen.io.byte_ranges import ByteRanges, Scratch
from lingen.io.manifest import CONFIG, OutputFolder, read_json, read_manifest, require_manifest

Members = tuple[tuple[str, str], ...]
"""(extension, prefix of its index columns) of each member of a sample."""

LATENT_MEMBERS: Members = ((LATENT, ""), (METADATA, "metadata_"))
TEXT_MEMBERS: Members = ((TEXT, ""),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardTakedownConfig:
    """List the encoded samples and training runs that a takedown affects, and write the shards without the samples."""

    shards: Path
    """Output folder of jobs/encode.py."""
    takedown: Path
    """CSV of what to remove, with columns content (hash, clip_id or sample key), uri, source, license, attribution,
    detail."""
    output: Path | None = None
    """Folder for the rewritten shards; without it the job only lists what is affected."""
    runs: tuple[Path, ...] = ()
    """Folders to search for training runs that have seen these shards."""
    overwrite: bool = False
    """Replace a folder made from another list."""


@dataclasses.dataclass(frozen=True)
class Affected:
    """What a takedown affects."""

    samples: list[tuple[str, str, str, str]]
    """(bucket, shard, key, reason) of the samples to remove."""
    runs: list[Path]
    """Folders of training runs on these shards, or started from one of them."""

    def shards(self) -> list[tuple[str, str, int]]:
        """(bucket, shard, samples to remove) of the affected shards."""
        names = [(bucket, shard) for bucket, shard, _, _ in self.samples]
        return [(*name, names.count(name)) for name in sorted(set(names))]


def take_down(config: ShardTakedownConfig) -> Affected:
    """Find what is affected and, with an output, write the folder without it.

    Raises:
        ValueError: bad configuration, before any work; or no sample would be left.
    """
    started = time.time()
    takedown = Takedown.read(config.takedown)
    source = require_manifest(config.shards, "encode", "--shards")
    affected = Affected(list(_samples(config.shards, takedown)), runs_on(config.runs, source))
    if config.output is None:
        return affected
    inputs = source["inputs"] | {"takedown": takedown.digest, "shards": samples_digest(source)}
    folder = OutputFolder.open(config.output, "encode", source["config"], inputs, overwrite=config.overwrite)
    if not folder.finished:
        gone = {key for _, _, key, _ in affected.samples}
        link_or_copy(config.shards / "tae", folder.path / "tae")
        _copy_errors(config.shards, folder.path, gone)
        kept = {
            bucket.name: _rewrite(config.shards, folder.path, bucket.name, gone) for bucket in _buckets(config.shards)
        }
        before = {b["name"]: b for b in source["outputs"]["summary"]["buckets"]}
        buckets = [BucketSummary.from_rows(n, before[n]["resolution"], rows) for n, rows in kept.items() if rows]
        if not buckets:
            raise ValueError(f"--takedown: no sample of {config.shards} would be left; delete the folder instead")
        stages = [StageSummary(**stage).recounted(buckets) for stage in source["outputs"]["summary"]["stages"]]
        summary = source["outputs"]["summary"] | {
            "buckets": buckets,
            "stages": stages,
            "seconds": time.time() - started,
        }
        folder.publish(index_digests(folder.path) | {"summary": summary}, started)
    return affected


def runs_on(folders: Sequence[Path], encoded: dict[str, Any]) -> list[Path]:
    """Find the training runs on some shards, and those started from such a run.

    Args:
        folders: where to search.
        encoded: the shards' manifest.
    """
    runs = {p.parent: read_json(p) for root in folders for p in sorted(Path(root).rglob(CONFIG))}
    runs = {path: claim for path, claim in runs.items() if isinstance(claim, dict) and claim.get("job") == "train"}
    found = [path for path, claim in runs.items() if claim["inputs"].get("shards") == samples_digest(encoded)]
    for path in found:  # grows while it is walked
        model = ((read_manifest(path) or {}).get("outputs") or {}).get("model")
        found += [p for p, c in runs.items() if model and c["inputs"].get("init") == model and p not in found]
    return found


def _buckets(folder: Path) -> list[Path]:
    return sorted(p.parent for p in Path(folder, "latents").glob(f"*/{INDEX}"))


def _samples(folder: Path, takedown: Takedown) -> Iterator[tuple[str, str, str, str]]:
    """(bucket, shard, key, reason) of the samples to remove."""
    files, scratch = ByteRanges.open(folder), Scratch()
    for bucket in _buckets(folder):
        table, _ = read_index(bucket / INDEX)
        for row in table.to_pylist():
            about = {"content": row["clip_id"], "source": row["source"], "license": row["license"]}
            if takedown.uses("uri", "attribution"):  # only the sample itself has these
                where = f"latents/{bucket.name}/{row['shard']}", row["metadata_offset"], row["metadata_size"]
                about |= unpack_metadata(files.read(*where, scratch))
            reason = takedown.detail(about)
            if reason is not None:
                yield bucket.name, row["shard"], row["key"], reason


def _rewrite(old: Path, new: Path, bucket: str, gone: set[str]) -> list[dict[str, Any]]:
    """Write one bucket's trees without the samples `gone`. Returns the rows of the latent index."""
    for encoder in sorted(Path(old, "text").iterdir()):
        tree = text_tree(encoder.name)
        _rewrite_tree(old / tree / bucket, new / tree / bucket, gone, TEXT_MEMBERS)
    return _rewrite_tree(old / "latents" / bucket, new / "latents" / bucket, gone, LATENT_MEMBERS)


def _rewrite_tree(old: Path, new: Path, gone: set[str], members: Members) -> list[dict[str, Any]]:
    """Write the shards and the index of one bucket of one tree without the samples `gone`. Returns the index rows."""
    table, form = read_index(old / INDEX)
    all_rows = table.to_pylist()
    affected = {row["shard"] for row in all_rows if row["key"] in gone}
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for row in all_rows:
        by_shard.setdefault(row["shard"], []).append(row)
    rows: list[dict[str, Any]] = []
    for shard, of_shard in by_shard.items():
        if shard in affected:
            kept = [row for row in of_shard if row["key"] not in gone]
            rows += _rewrite_shard(old / shard, new / shard, kept, members)
        else:
            link_or_copy(old / shard, new / shard)
            rows += of_shard
    if rows:
        write_index(new / INDEX, rows, form)
    return rows


def _rewrite_shard(old: Path, new: Path, rows: list[dict[str, Any]], members: Members) -> list[dict[str, Any]]:
    """Write a tar with the samples of `rows` alone. Returns the rows with their new offsets."""
    if not rows:
        return []
    moved = []
    with open(old, "rb") as file, ShardWriter(new) as tar:
        for row in rows:
            changed = dict(row)
            for extension, prefix in members:
                file.seek(row[prefix + "offset"])
                data = file.read(row[prefix + "size"])
                if checksum(data) != row[prefix + "checksum"]:
                    raise DamagedSample(f"{old}: {row['key']}.{extension} is damaged; run jobs/encode.py again first")
                changed |= tar.add(row["key"], extension, data).columns(prefix)
            moved.append(changed)
    return moved


def _copy_errors(old: Path, new: Path, gone: set[str]) -> None:
    """Write errors.parquet without the clips of the samples `gone`."""
    contents = {content_of(key) for key in gone}
    table = pq.read_table(old / "errors.parquet")
    kept = [content_of(clip) not in contents for clip in table["clip_id"].to_pylist()]
    pq.write_table(table.filter(pa.array(kept, pa.bool_())), new / "errors.parquet")
