"""The same latents with other text embeddings: a new folder that shares the latent tars (hard links where possible)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path

from data_prep.cluster import connect
from data_prep.encode import index_digests
from data_prep.shard_parts import remove_parts
from data_prep.shard_pool import WorkerConfig, pool_size
from data_prep.text_shards import write_text
from lingen.manifest import OutputFolder, digest, require_manifest, to_plain
from lingen.text import TextEncoderConfig, build_text_encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetextConfig:
    """Embed the captions of encoded shards again, with another text encoder."""

    shards: Path
    """Folder of jobs/encode.py whose latents are taken over."""
    output: Path
    """Folder for the same latents with the new text."""
    text: TextEncoderConfig = dataclasses.field(default_factory=TextEncoderConfig)
    """The new text encoder."""
    workers: WorkerConfig = dataclasses.field(default_factory=WorkerConfig)
    """The encoding workers."""
    overwrite: bool = False
    """Replace a folder that was made with other settings."""


def retext(config: RetextConfig) -> dict:
    """Run the job; returns the manifest, which reads as one of jobs/encode.py with the new text settings."""
    started = time.time()
    source = require_manifest(config.shards, "encode", "--shards")
    encoder = build_text_encoder(config.text)
    latents = {name: value for name, value in source["outputs"].items() if name.startswith("latents/")}
    content = source["config"] | {"text": to_plain(config.text)}
    inputs = {"latents": digest(latents), "text": encoder.digest}
    folder = OutputFolder.open(config.output, "encode", content, inputs, overwrite=config.overwrite)
    if not folder.finished:
        for tree in ("latents", "tae"):
            share(Path(config.shards, tree), folder.path / tree)
        connect()
        pool_size(config.workers)
        buckets = sorted(p.name for p in Path(folder.path, "latents").iterdir())
        write_text(folder.path, buckets, config.text, content["dtype"], config.workers)
        summary = source["outputs"]["summary"] | {"seconds": time.time() - started}
        folder.publish(index_digests(folder.path) | {"summary": summary}, started)
        remove_parts(folder.path)
    return require_manifest(config.output, "encode", "--output")


def share(source: Path, target: Path) -> None:
    """A file, or the files of a tree, under another root: hard links, copies across file systems."""
    for path in [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file()):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        try:
            os.link(path, copy)
        except OSError:
            shutil.copy2(path, copy)
