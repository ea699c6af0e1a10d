"""Takedown from encoded shards: find what is affected, and write a new folder without it.

The new folder shares the shards that are not affected (hard links where possible) and holds the others rewritten. Its
indexes have other digests, so that no training run on the old folder resumes with it by mistake. Training runs that
have seen affected shards are listed.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.curate.takedown import Takedown, content_of
from data_prep.encode.config import EncodeConfig
from data_prep.encode.error_table import ErrorRow, read_errors, write_errors
from data_prep.encode.job import index_digests
from data_prep.encode.retext import share, tae_files
from data_prep.encode.summary import BucketSummary, EncodeSummary, canary_alarms, stage_warnings
from data_prep.encode.texts import text_tree
from lingen.data.index_file import INDEX, read_index, samples_digest, write_index
from lingen.data.shard_index import ShardIndex
from lingen.data.shards import LATENT, METADATA, TEXT, DamagedSample, ShardWriter, checksum
from lingen.io.inside import inside, require_apart
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
    index = ShardIndex.open(config.shards)
    affected = Affected(list(_samples(index, takedown)), runs_on(config.runs, source))
    if config.output is None:
        return affected
    require_apart(config.output, config.shards, "--shards")
    inputs = source["inputs"] | {"takedown": takedown.digest, "shards": samples_digest(source)}
    folder = OutputFolder.open(config.output, "encode", source["config"], inputs, overwrite=config.overwrite)
    if not folder.finished:
        index.check_files()
        gone = {key for _, _, key, _ in affected.samples}
        share(config.shards, folder.path, tae_files(config.shards))
        kept = {name: rows for name in index.buckets if (rows := _rewrite(index, folder.path, name, gone))}
        if not kept:
            raise ValueError(f"--takedown: no sample of {config.shards} would be left; delete the folder instead")
        errors = _kept_errors(read_errors(config.shards), takedown, gone, kept)
        write_errors(folder.path, errors)
        buckets = [BucketSummary.from_rows(n, index.buckets[n].format.resolution, rows) for n, rows in kept.items()]
        summary = dataclasses.asdict(_recounted(config.shards, source["config"], buckets, errors))
        summary["seconds"] = time.time() - started
        folder.publish(index_digests(folder.path) | {"summary": summary}, started)
    return affected


def _recounted(
    shards: Path, settings: dict[str, Any], buckets: list[BucketSummary], errors: list[ErrorRow]
) -> EncodeSummary:
    """The summary of the old folder with the counts, errors and warnings of what is kept."""
    before = EncodeSummary.from_folder(shards)
    stages = [stage.recounted(buckets) for stage in before.stages]
    min_psnr = settings.get("min_psnr", EncodeConfig.min_psnr)
    serve_shorter = settings.get("serve_shorter", EncodeConfig.serve_shorter)
    return dataclasses.replace(
        before,
        buckets=buckets,
        stages=stages,
        errors=dict(Counter(row["reason"] for row in errors)),
        warnings=[*canary_alarms(min_psnr, buckets), *stage_warnings(stages, serve_shorter)],
    )


def runs_on(folders: Sequence[Path], encoded: dict[str, Any]) -> list[Path]:
    """Find the training runs on some shards, and those started from such a run.

    Args:
        folders: where to search.
        encoded: the shards' manifest.
    """
    claims = {p.parent: _training_claim(p) for root in folders for p in sorted(Path(root).rglob(CONFIG))}
    runs = {path: claim for path, claim in claims.items() if claim is not None}
    found = [path for path, claim in runs.items() if claim["inputs"].get("shards") == samples_digest(encoded)]
    for path in found:  # grows while it is walked
        model = ((read_manifest(path) or {}).get("outputs") or {}).get("model")
        found += [p for p, c in runs.items() if model and c["inputs"].get("init") == model and p not in found]
    return found


def _training_claim(path: Path) -> dict[str, Any] | None:
    """The content of a training run's config.json; None where another job or program wrote the file."""
    try:
        claim = read_json(path)
    except (OSError, ValueError):
        return None
    is_run = isinstance(claim, dict) and claim.get("job") == "train" and isinstance(claim.get("inputs"), dict)
    return claim if is_run else None


def _samples(index: ShardIndex, takedown: Takedown) -> Iterator[tuple[str, str, str, str]]:
    """(bucket, shard, key, reason) of the samples to remove."""
    in_member = takedown.uses("uri", "attribution")  # only the sample itself has these
    for name, bucket in index.buckets.items():
        for number, row in enumerate(bucket.table.to_pylist()):
            about = {"content": row["clip_id"], "source": row["source"], "license": row["license"]}
            if in_member:
                about |= bucket.metadata(number)
            reason = takedown.detail(about)
            if reason is not None:
                yield name, row["shard"], row["key"], reason


def _rewrite(index: ShardIndex, new: Path, bucket: str, gone: set[str]) -> list[dict[str, Any]]:
    """Write one bucket's trees without the samples `gone`. Returns the rows of the latent index."""
    old = Path(index.folder)
    for form in index.text_format:
        _rewrite_tree(old, new, f"{text_tree(form.name)}/{bucket}", gone, TEXT_MEMBERS)
    return _rewrite_tree(old, new, f"latents/{bucket}", gone, LATENT_MEMBERS)


def _rewrite_tree(old: Path, new: Path, bucket: str, gone: set[str], members: Members) -> list[dict[str, Any]]:
    """Write the shards and the index of one bucket of one tree without the samples `gone`. Returns the index rows."""
    table, form = read_index(old / bucket / INDEX)
    all_rows = table.to_pylist()
    affected = {row["shard"] for row in all_rows if row["key"] in gone}
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for row in all_rows:
        by_shard.setdefault(row["shard"], []).append(row)
    rows: list[dict[str, Any]] = []
    for shard, of_shard in by_shard.items():
        if shard in affected:
            kept = [row for row in of_shard if row["key"] not in gone]
            rows += _rewrite_shard(inside(old, f"{bucket}/{shard}"), inside(new, bucket) / shard, kept, members)
        else:
            share(old, new, [f"{bucket}/{shard}"])
            rows += of_shard
    if rows:
        write_index(inside(new, bucket) / INDEX, rows, form)
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


def _kept_errors(
    rows: list[ErrorRow], takedown: Takedown, gone: set[str], kept: dict[str, list[dict[str, Any]]]
) -> list[ErrorRow]:
    """The error rows without those of clips that must go.

    They have no source, licence or attribution. Where the list names such, only the rows of clips that have a sample
    left are known to be free of them.
    """
    removed = {content_of(key) for key in gone}
    known = {content_of(row["clip_id"]) for of_bucket in kept.values() for row in of_bucket}
    by_terms = takedown.uses("source", "license", "attribution")

    def stays(row: ErrorRow) -> bool:
        content = content_of(row["clip_id"])
        named = takedown.detail({"content": row["clip_id"], "uri": row["uri"]}) is not None
        return content not in removed and not named and (content in known or not by_terms)

    return [row for row in rows if stays(row)]
