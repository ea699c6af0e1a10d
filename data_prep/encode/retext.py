"""The same latents with other text encoders: a new folder that shares unchanged files (hard links where possible)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_prep.encode.error_table import ErrorRow, read_errors, write_errors
from data_prep.encode.job import index_digests, text_digests
from data_prep.encode.parts import forget_deaths, remove_parts
from data_prep.encode.pool import EncodeWorkers, pool_size
from data_prep.encode.summary import EncodeSummary
from data_prep.encode.texts import Encoders, text_tree, write_text
from data_prep.ray_cluster import connect
from lingen.data.index_file import INDEX, read_index
from lingen.data.shard_index import ShardIndex
from lingen.io.inside import inside, require_apart
from lingen.io.manifest import OutputFolder, digest, require_manifest
from lingen.text.encoders import parse_text_encoders


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetextConfig:
    """Embed the captions of encoded shards with other text encoders; latents and unchanged text are shared."""

    shards: Path
    """Output folder of jobs/encode.py whose latents are shared."""
    output: Path
    """Folder for the same latents with the new text."""
    text: Encoders
    """All text encoders of the new folder, written as for jobs/encode.py. Text that --shards already has under the
    same name and with the same weights is shared; the other encoders embed the captions."""
    workers: EncodeWorkers = dataclasses.field(default_factory=EncodeWorkers)
    """The encoding workers."""
    overwrite: bool = False
    """Replace a folder made with other settings."""

    def __post_init__(self):
        parse_text_encoders(self.text)


@dataclasses.dataclass(frozen=True)
class RetextResult:
    """What the job did."""

    samples: int
    embedded: list[str]
    """Names of the encoders whose text is new."""
    shared: list[str]
    """Names of the encoders whose text is shared with the old folder."""


def retext(config: RetextConfig) -> RetextResult:
    """Run the job; its manifest reads like one of jobs/encode.py with the new text settings.

    Raises:
        ValueError: bad configuration, before any work.
    """
    started = time.time()
    source = require_manifest(config.shards, "encode", "--shards")
    require_apart(config.output, config.shards, "--shards")
    before = EncodeSummary.from_folder(config.shards)
    index = ShardIndex.open(config.shards)
    encoders = parse_text_encoders(config.text)
    digests = text_digests(encoders)
    latents = {name: value for name, value in source["outputs"].items() if name.startswith("latents/")}
    content = source["config"] | {"text": config.text}
    inputs = {"latents": digest(latents), "text": digests}
    folder = OutputFolder.open(config.output, "encode", content, inputs, overwrite=config.overwrite)
    shared = [form.name for form in index.text_format if digests.get(form.name) == form.digest]
    done = RetextResult(len(index), [name for name in encoders if name not in shared], shared)
    if folder.finished:
        return done
    index.check_files()
    share_trees(index, folder.path, ["latents", *map(text_tree, shared)])
    share(config.shards, folder.path, tae_files(config.shards))
    connect()
    pool_size(config.workers)
    forget_deaths(folder.path)
    new_errors: list[ErrorRow] = []
    for name in done.embedded:
        encoder = encoders[name]
        new_errors += write_text(folder.path, list(index.buckets), name, encoder, content["dtype"], config.workers)
    write_errors(folder.path, [*read_errors(config.shards), *new_errors])
    summary = dataclasses.asdict(before)
    summary["errors"] = Counter(before.errors) + Counter(row["reason"] for row in new_errors)
    summary["seconds"] = time.time() - started
    folder.publish(index_digests(folder.path) | {"summary": summary}, started)
    remove_parts(folder.path)
    return done


def share_trees(index: ShardIndex, new: Path, trees: Iterable[str]) -> None:
    """Share the shards of some trees, and their indexes: what the indexes name and nothing else."""
    for tree in trees:
        for bucket in index.buckets:
            shards = read_index(Path(index.folder, tree, bucket, INDEX), ["shard"])[0]["shard"].unique().to_pylist()
            share(Path(index.folder), new, [f"{tree}/{bucket}/{name}" for name in (*shards, INDEX)])


def tae_files(folder: Path) -> list[str]:
    """The files of an encoded folder's TAE, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder, "tae").rglob("*") if path.is_file())


def share(old: Path, new: Path, names: Iterable[str]) -> None:
    """Give files of a folder a second place in another: hard links, or copies across file systems.

    Args:
        old: the folder that has them.
        new: the folder that shall have them too; a file that is there already is replaced.
        names: relative to both.

    Raises:
        ValueError: a name or a link leads out of one of the folders.
    """
    for name in names:
        path, copy = inside(old, name), inside(new, Path(name).parent) / Path(name).name
        if not path.is_file():
            raise ValueError(f"{old}: {name} is not a file")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        try:
            os.link(path, copy)
        except OSError:
            shutil.copy2(path, copy)
