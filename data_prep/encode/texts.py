"""Text shards: the captions of a finished latent index, embedded in the same order, in separate tars per encoder.

Captions are read from the latent tars' JSON members, so text can be embedded with another encoder at any time, without
the clips. A caption that an encoder cannot take is embedded as an empty one: all trees have the same samples.

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

from data_prep.encode.error_table import ErrorRow, with_replay
from data_prep.encode.parts import DEATHS, InHand, is_done, read_part, write_part
from data_prep.encode.pool import EncodeWorkers, run_shards, torch_threads
from data_prep.media.errors import BugAlarm, MediaError, OurBug, internal_error
from lingen.data.buckets import Bucket
from lingen.data.index_file import INDEX, TextFormat, read_index, write_index
from lingen.data.shard_index import BucketIndex
from lingen.data.shards import TEXT, ShardWriter, pack_text
from lingen.io.byte_ranges import ByteRanges
from lingen.io.progress import Progress
from lingen.text.encoders import TextEncoder, TextEncoderConfig, build_text_encoder

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
        self._encoder: TextEncoder | None = None
        self._alarm = BugAlarm()
        self._errors: list[ErrorRow] = []

    @property
    def encoder(self) -> TextEncoder:
        """The encoder; loaded with a shard in hand, so that a death while loading counts too."""
        if self._encoder is None:
            self._encoder = build_text_encoder(self.settings.encoder, self.settings.device)
        return self._encoder

    def __call__(self, task: dict[str, Any]) -> dict[str, int | str]:
        """Write one shard and its part. `task`: the "bucket" and "shard" to embed.

        Returns:
            A count, and under "stop" why the job cannot go on, if it cannot; then the shard is not written.
        """
        tree, bucket, shard = text_tree(self.settings.name), task["bucket"], task["shard"]
        hand = InHand(self.settings.output, tree, bucket, shard)
        if hand.deaths[shard] > DEATHS:
            return {"samples": 0, "stop": _deadly(f"{tree}/{bucket}/{shard}")}
        hand.take([shard])
        try:
            samples = self._write(bucket, shard)
        except OurBug as bug:
            return {"samples": 0, "stop": str(bug)}
        hand.close()
        return {"samples": samples, "stop": ""}

    def _write(self, bucket: str, shard: str) -> int:
        """Write one shard and its part; returns its samples."""
        samples = self._samples(bucket, shard)
        tree, dtype = text_tree(self.settings.name), self.settings.dtype
        rows: list[dict[str, Any]] = []
        self._errors = []
        with ShardWriter(Path(self.settings.output, tree, bucket, shard)) as tar:
            for sample, tokens_LD in zip(samples, self._embed(samples), strict=True):
                try:
                    data = pack_text(tokens_LD, dtype)
                except ValueError as error:
                    tokens_LD = self._replace(sample, MediaError("not_finite", str(error)), error)
                    data = pack_text(tokens_LD, dtype)
                member = tar.add(sample["key"], TEXT, data)
                rows.append({"key": sample["key"], "shard": shard, "length": len(tokens_LD)} | member.columns())
        about = {"model": self.encoder.name, "digest": self.encoder.digest, "dim": self.encoder.dim}
        part = {"rows": rows, "encoder": about, "errors": self._errors}
        write_part(self.settings.output, tree, bucket, shard, part)
        self.tally.add.remote(len(rows))
        return len(rows)

    def _samples(self, bucket: str, shard: str) -> list[dict[str, Any]]:
        """Key and json member of the samples of a latent shard, in its order."""
        index = BucketIndex(Bucket.parse(bucket), ByteRanges.open(self.settings.output), encoders=[])
        numbers = [i for i, name in enumerate(index.column("shard").to_pylist()) if name == shard]
        return [{"key": index.key(i)} | index.metadata(i) for i in numbers]

    def _embed(self, samples: list[dict[str, Any]]) -> list[torch.Tensor]:
        """The tokens (L, D) of the captions; those that the encoder cannot take are embedded as an empty one."""
        try:
            found = self.encoder.encode([sample["caption"] for sample in samples])
        except Exception as error:
            self._empty(error)
            return [self._embed_one(sample) for sample in samples]
        self._alarm.note(samples[-1]["clip_id"])
        return found

    def _embed_one(self, sample: dict[str, Any]) -> torch.Tensor:
        try:
            (tokens_LD,) = self.encoder.encode([sample["caption"]])
        except Exception as error:
            return self._replace(sample, internal_error(error), error)
        self._alarm.note(sample["clip_id"])
        return tokens_LD

    def _replace(self, sample: dict[str, Any], refused: MediaError, error: Exception) -> torch.Tensor:
        """Add an error row; returns the tokens to use instead. OurBug where many clips in a row have one of ours."""
        about = {name: sample[name] for name in ("key", "clip_id", "uri", "bucket")}
        detail = f"embedded as an empty caption: {with_replay(refused, self._replay(sample))}"
        row = about | {"reason": refused.reason, "detail": detail}
        self._errors.append(row)
        self._alarm.note(sample["clip_id"], row)
        return self._empty(error)

    def _empty(self, why: Exception) -> torch.Tensor:
        """The tokens of an empty caption; where the encoder cannot take that either, it is at fault, not a caption."""
        try:
            (tokens_LD,) = self.encoder.encode([""])
            pack_text(tokens_LD, self.settings.dtype)
        except Exception:
            raise why from None
        return tokens_LD

    def _replay(self, sample: dict[str, Any]) -> list[str]:
        """The arguments of data_prep/encode/replay.py that embed a sample's caption again."""
        encoder = dataclasses.asdict(self.settings.encoder)
        options = [f"{name}={value}" for name, value in encoder.items() if name != "model" and value is not None]
        spec = ",".join([f"{self.settings.name}={self.settings.encoder.model}", *options])
        words = ["text", self.settings.output, "--bucket", sample["bucket"], "--key", sample["key"]]
        return [*words, "--encoder", spec]


def _deadly(shard: str) -> str:
    """Why the job cannot go on: Ray starts a worker that died again, for ever."""
    return (
        f"{shard}: the process that embeds its captions died {DEATHS + 1} times, by a crash or killed for memory. "
        "Fewer --workers.count or a smaller encoder need less memory; the same command continues from here"
    )


def text_tree(encoder: str) -> str:
    """The folder of a text encoder's shards, relative to the encoded folder."""
    return f"text/{encoder}"


def write_text(
    output: Path, buckets: Sequence[str], name: str, encoder: TextEncoderConfig, dtype: str, workers: EncodeWorkers
) -> list[ErrorRow]:
    """Write one encoder's missing text shards, and its indexes; Ray must be connected.

    Args:
        output: the encoded folder, with finished latent indexes.
        buckets: names of the buckets whose captions to embed.
        name: of the encoder's folder.
        encoder: which encoder, with which weights.
        dtype: storage dtype of the embeddings.
        workers: the pool to run on.

    Returns:
        The error rows of captions that are embedded as an empty one.

    Raises:
        OurBug: many different clips in a row have one.
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
    return [row for bucket in buckets for row in _merge(output, bucket, name, dtype)]


def _shard_sizes(output: Path, bucket: str) -> Counter[str]:
    """Shard -> samples of a finished latent index, in its order."""
    table, _ = read_index(output / "latents" / bucket / INDEX)
    return Counter(table["shard"].to_pylist())


def _merge(output: Path, bucket: str, name: str, dtype: str) -> list[ErrorRow]:
    """Write an encoder's index of a bucket from the parts of its shards. Returns the error rows."""
    parts = [read_part(output, text_tree(name), bucket, shard) for shard in _shard_sizes(output, bucket)]
    encoder = parts[0]["encoder"]
    assert all(part["encoder"] == encoder for part in parts), "text parts of several encoders"
    form = TextFormat(bucket=bucket, dtype=dtype, name=name, **encoder)
    write_index(output / text_tree(name) / bucket / INDEX, [row for part in parts for row in part["rows"]], form)
    return [row for part in parts for row in part.get("errors", [])]  # parts of an older version have none
