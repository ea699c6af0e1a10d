"""Text shards: the captions of a finished latent index, embedded in the same order, in separate tars per encoder.

Captions are read from the latent tars' JSON members, so text can be embedded with another encoder at any time, without
the clips.

Legend: L text tokens, D text width.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from ray.actor import ActorHandle

from data_prep.encode.parts import is_done, read_part, write_part
from data_prep.encode.pool import EncodeWorkers, run_shards, torch_threads
from lingen.data.index_file import INDEX, TextFormat, read_index, write_index
from lingen.data.shards import TEXT, ShardWriter, pack_text, unpack_metadata
from lingen.io.byte_ranges import ByteRanges, Scratch
from lingen.io.progress import Progress
from lingen.text.encoders import TextEncoderConfig, build_text_encoder

Encoders = Annotated[tuple[str, ...], tyro.conf.arg(metavar="ENCODER [ENCODER ...]")]
"""A command line's text encoders, as lingen.text.encoders.parse_text_encoders reads them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Settings of a TextWorker; plain values, since they travel to other machines."""

    output: str
    name: str
    encoder: TextEncoderConfig
    dtype: str
    device: str
    threads: int


class TextWorker:
    """The actor: loads one encoder once and embeds one shard's captions per call.

    Args:
        settings: the same for all workers.
        tally: handle of a Tally that counts captions for the progress line.
    """

    def __init__(self, settings: TextSettings, tally: ActorHandle):
        torch.set_num_threads(settings.threads)
        self.settings, self.tally = settings, tally
        self.encoder = build_text_encoder(settings.encoder, settings.device)

    def __call__(self, task: dict[str, Any]) -> dict[str, int]:
        """Write one shard and its part. `task`: the "bucket" and "shard" to embed. Returns counts."""
        bucket, shard = task["bucket"], task["shard"]
        keys, captions = self._captions(bucket, shard)
        tree = text_tree(self.settings.name)
        rows: list[dict[str, Any]] = []
        with ShardWriter(Path(self.settings.output, tree, bucket, shard)) as tar:
            for key, tokens_LD in zip(keys, self.encoder.encode(captions)):
                member = tar.add(key, TEXT, pack_text(tokens_LD, self.settings.dtype))
                rows.append({"key": key, "shard": shard, "length": len(tokens_LD)} | member.columns())
        about = {"model": self.encoder.name, "digest": self.encoder.digest, "dim": self.encoder.dim}
        write_part(self.settings.output, tree, bucket, shard, {"rows": rows, "encoder": about})
        self.tally.add.remote(len(rows))
        return {"samples": len(rows)}

    def _captions(self, bucket: str, shard: str) -> tuple[list[str], list[str]]:
        """Keys and captions of a latent shard, in its order."""
        folder = f"latents/{bucket}"
        table, _ = read_index(Path(self.settings.output, folder, INDEX))
        files = ByteRanges.open(self.settings.output)
        rows = [r for r in table.to_pylist() if r["shard"] == shard]
        scratch = Scratch()
        members = (files.read(f"{folder}/{shard}", r["metadata_offset"], r["metadata_size"], scratch) for r in rows)
        return [r["key"] for r in rows], [unpack_metadata(m)["caption"] for m in members]


def text_tree(encoder: str) -> str:
    """The folder of a text encoder's shards, relative to the encoded folder."""
    return f"text/{encoder}"


def write_text(
    output: Path, buckets: Sequence[str], name: str, encoder: TextEncoderConfig, dtype: str, workers: EncodeWorkers
) -> None:
    """Write one encoder's missing text shards, and its indexes; Ray must be connected.

    Args:
        output: the encoded folder, with finished latent indexes.
        buckets: names of the buckets whose captions to embed.
        name: of the encoder's folder.
        encoder: which encoder, with which weights.
        dtype: storage dtype of the embeddings.
        workers: the pool to run on.
    """
    tasks: list[dict[str, Any]] = [
        {"bucket": bucket, "shard": shard, "samples": count}
        for bucket in buckets
        for shard, count in _shard_sizes(output, bucket).items()
    ]
    missing = [task for task in tasks if not is_done(output, text_tree(name), task["bucket"], task["shard"])]
    total, to_do = sum(task["samples"] for task in tasks), sum(task["samples"] for task in missing)
    settings = TextSettings(
        output=str(output.absolute()),
        name=name,
        encoder=encoder,
        dtype=dtype,
        device=workers.device,
        threads=torch_threads(workers),
    )
    progress = Progress(text_tree(name), total, "captions", done=total - to_do)
    run_shards(TextWorker, settings, missing, workers, progress)
    for bucket in buckets:
        _merge(output, bucket, name, dtype)


def _shard_sizes(output: Path, bucket: str) -> Counter[str]:
    """Shard -> samples of a finished latent index, in its order."""
    table, _ = read_index(output / "latents" / bucket / INDEX)
    return Counter(table["shard"].to_pylist())


def _merge(output: Path, bucket: str, name: str, dtype: str) -> None:
    """Write an encoder's index of a bucket from the parts of its shards."""
    parts = [read_part(output, text_tree(name), bucket, shard) for shard in _shard_sizes(output, bucket)]
    encoder = parts[0]["encoder"]
    assert all(part["encoder"] == encoder for part in parts), "text parts of several encoders"
    form = TextFormat(bucket=bucket, dtype=dtype, name=name, **encoder)
    write_index(output / text_tree(name) / bucket / INDEX, [row for part in parts for row in part["rows"]], form)
