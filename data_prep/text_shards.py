"""Text shards: the captions of a finished latent index, embedded, in the same order, in tars of their own.

Captions are read from the latent tars' json members, so text can be made again with another encoder at any time,
without the clips.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from data_prep.shard_parts import is_done, read_part, write_part
from data_prep.shard_pool import WorkerConfig, run_shards, torch_threads
from lingen.byte_ranges import ByteRanges, Scratch
from lingen.progress import Progress
from lingen.shard_index import INDEX, TextFormat, read_index, write_index
from lingen.shards import TEXT, ShardWriter, pack_text, unpack_metadata
from lingen.text import TextEncoderConfig, build_text_encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """What a worker must know to embed captions."""

    output: str
    encoders: tuple[TextEncoderConfig, ...]
    dtype: str
    device: str
    threads: int


class TextWorker:
    """The actor: loads the encoders once, embeds one shard's captions per call."""

    def __init__(self, settings: TextSettings, tally):
        torch.set_num_threads(settings.threads)
        self.settings, self.tally = settings, tally
        self.encoders = [build_text_encoder(config, settings.device) for config in settings.encoders]

    def __call__(self, row: dict) -> dict:
        bucket, shard = row["bucket"], row["shard"]
        keys, captions = self._captions(bucket, shard)
        embeddings = [encoder.encode(captions) for encoder in self.encoders]
        rows = []
        with ShardWriter(Path(self.settings.output, "text", bucket, shard)) as tar:
            for key, *tokens_LD in zip(keys, *embeddings):
                member = tar.add(key, TEXT, pack_text(tokens_LD, self.settings.dtype))
                rows.append({"key": key, "shard": shard, "lengths": [len(t) for t in tokens_LD]} | member.columns())
        encoders = [{"name": e.name, "digest": e.digest, "dim": e.dim} for e in self.encoders]
        write_part(self.settings.output, "text", bucket, shard, {"rows": rows, "encoders": encoders})
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


def write_text(
    output: Path, buckets: Sequence[str], text: TextEncoderConfig, dtype: str, workers: WorkerConfig
) -> None:
    """Write the text shards and indexes that belong to the latent indexes of `output`; needs a connected Ray."""
    shards = [{"bucket": b, "shard": s, "samples": n} for b in buckets for s, n in _shard_sizes(output, b).items()]
    missing = [row for row in shards if not is_done(output, "text", row["bucket"], row["shard"])]
    total = sum(row["samples"] for row in shards)
    settings = TextSettings(
        output=str(output.absolute()),
        encoders=(text,),
        dtype=dtype,
        device=workers.device,
        threads=torch_threads(workers),
    )
    progress = Progress("text", total, "captions", done=total - sum(row["samples"] for row in missing))
    run_shards(TextWorker, settings, missing, workers, progress)
    for bucket in buckets:
        _merge(output, bucket, dtype)


def _shard_sizes(output: Path, bucket: str) -> Counter:
    """Shard -> samples, of a written latent index, in its order."""
    table, _ = read_index(output / "latents" / bucket / INDEX)
    return Counter(table["shard"].to_pylist())


def _merge(output: Path, bucket: str, dtype: str) -> None:
    """Write a bucket's text index from the parts of its shards."""
    parts = [read_part(output, "text", bucket, shard) for shard in _shard_sizes(output, bucket)]
    encoders = parts[0]["encoders"]
    assert all(part["encoders"] == encoders for part in parts), "text parts of several encoders"
    form = TextFormat(
        bucket=bucket,
        dtype=dtype,
        names=[e["name"] for e in encoders],
        digests=[e["digest"] for e in encoders],
        dims=[e["dim"] for e in encoders],
    )
    write_index(output / "text" / bucket / INDEX, [row for part in parts for row in part["rows"]], form)
