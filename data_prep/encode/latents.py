"""Latent shards: frames at the segments' times, through the TAE, into a tar, with canaries that check the result.

The shard is the unit of work and of resuming; its content was fixed beforehand (data_prep/encode/layout.py). Short
segments go through the TAE in batches, a long one alone, read and encoded piece by piece: memory does not grow with its
length. Whatever a segment raises, even the death of the worker, becomes an error row; many in a row stop the job.

Legend: B segments of a batch, N frames, H/W pixels; C/t/h/w axes of a latent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.actor import ActorHandle

from data_prep.encode.error_table import ErrorRow, error_row
from data_prep.encode.layout import ShardLayout
from data_prep.encode.parts import DEATHS, InHand, write_part
from data_prep.encode.segment_frames import is_long, read_in_pieces, read_segments, refusal
from data_prep.encode.segments import Segment
from data_prep.media.errors import INTERNAL, BugAlarm, MediaError, OurBug
from lingen.data.buckets import Bucket
from lingen.data.shards import LATENT, METADATA, ShardWriter, pack_latent, pack_metadata, unpack_latent
from lingen.tae.pretrained import load_tae
from lingen.tae.tiling import TilingConfig

PIECE = 64
"""Frames of a segment that are sent to the TAE at once."""
DEADLY = MediaError(
    INTERNAL, f"the encoding process died {DEATHS + 1} times with this segment in hand: a crash, or killed for memory"
)

Encoded = tuple[Segment, torch.Tensor, np.ndarray]
"""A segment, its latent (C, t, h, w), and frames (N, H, W, 3) to compare it with: all, or a long segment's first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentSettings:
    """Settings of a LatentWorker; plain values, since they travel to other machines."""

    output: str
    tae: str
    dtype: str
    batch_frames: int
    tiling: TilingConfig
    canaries: int
    decode_cpus: float
    decode_timeout_s: float
    device: str
    threads: int


class LatentWorker:
    """The actor: loads the TAE once and encodes one shard per call.

    Args:
        settings: the same for all workers.
        tally: handle of a Tally that counts segments for the progress line.
    """

    def __init__(self, settings: LatentSettings, tally: ActorHandle):
        torch.set_num_threads(settings.threads)
        self.settings, self.tally = settings, tally
        self.device = torch.device(settings.device)
        self.tae = load_tae(settings.tae).to(self.device)
        self.tae_digest = self.tae.digest
        self._reading, self._encoding = BugAlarm(), BugAlarm()  # apart: the one is ahead of the other
        self._errors: list[ErrorRow] = []

    def __call__(self, task: dict[str, str]) -> dict[str, int | str]:
        """Write one shard and its part. `task`: {"shard": a ShardLayout's JSON}.

        Returns:
            Counts, and under "stop" why the job cannot go on, if it cannot; then the shard is not written.
        """
        shard = ShardLayout.from_json(task["shard"])
        self._errors = []
        try:
            rows = self._write(shard)
        except OurBug as bug:
            return {"samples": 0, "errors": 0, "stop": str(bug)}
        part = {"rows": rows, "errors": self._errors}
        write_part(self.settings.output, "latents", shard.bucket, shard.name, part)
        return {"samples": len(rows), "errors": len(self._errors), "stop": ""}

    def _write(self, shard: ShardLayout) -> list[dict[str, Any]]:
        """Write the tar; returns its index rows."""
        rows: list[dict[str, Any]] = []
        samples = self._samples(shard)
        first = next(samples, None)
        if first is not None:  # a shard whose clips all fail leaves no tar
            with ShardWriter(Path(self.settings.output, "latents", shard.bucket, shard.name)) as tar:
                for sample in chain([first], samples):
                    rows.append(_add(tar, sample) | {"shard": shard.name})
        return rows

    def _samples(self, shard: ShardLayout) -> Iterator[_PackedSample]:
        """The samples of the segments that can be encoded; the others become error rows."""
        canaries = 0
        for segment, latent_Cthw, frames_NHW3 in self._encode_segments(shard):
            try:
                latent = self._packed(latent_Cthw)
                metadata = pack_metadata(segment.provenance, self.tae_digest)
                psnr = self._canary_psnr(latent, frames_NHW3) if canaries < self.settings.canaries else None
            except Exception as error:
                self._refuse(segment, error, self._encoding)
                continue
            canaries += 1
            self._encoding.note(segment.content_hash)
            yield _PackedSample(segment, latent, list(latent_Cthw.shape), metadata, psnr)

    def _refuse(self, segment: Segment, error: Exception, alarm: BugAlarm) -> None:
        """Add the error row of a segment. OurBug where many different clips in a row have had one of ours."""
        row = error_row(segment, refusal(error), self.settings.tae)
        self._errors.append(row)
        alarm.note(segment.content_hash, row)

    def _encode_segments(self, shard: ShardLayout) -> Iterator[Encoded]:
        """Encode the segments that can be read; the others become error rows."""
        hand = InHand(self.settings.output, "latents", shard.bucket, shard.name)
        segments = [s for s in shard.segments if hand.deaths[s.key] <= DEATHS]
        for segment in shard.segments:
            if hand.deaths[segment.key] > DEATHS:
                self._refuse(segment, DEADLY, self._encoding)
                self.tally.add.remote(1)
        if is_long(shard.bucket):
            for segment in segments:
                hand.take([segment.key])
                yield from self._encode_long(segment)
                hand.take([])
                self.tally.add.remote(1)
        else:
            batch_size = max(1, self.settings.batch_frames // Bucket.parse(shard.bucket).frames)
            for batch in _batches(self._read(segments), batch_size):
                alone = any(hand.deaths[segment.key] >= DEATHS for segment, _ in batch)
                for part in [[one] for one in batch] if alone else [batch]:
                    hand.take([segment.key for segment, _ in part])
                    yield from self._encode_batch(part)
                    hand.take([])
        hand.close()

    def _read(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, np.ndarray]]:
        """The segments that can be read, with their frames."""
        for segment, frames in read_segments(segments, self.settings.decode_cpus, self.settings.decode_timeout_s):
            if isinstance(frames, MediaError):
                self._refuse(segment, frames, self._reading)
            else:
                self._reading.note(segment.content_hash)
                yield segment, frames
            self.tally.add.remote(1)

    def _encode_batch(self, batch: list[tuple[Segment, np.ndarray]]) -> list[Encoded]:
        """Encode short segments together; where that fails, one by one."""
        try:
            frames_BNHW3 = np.stack([frames_NHW3 for _, frames_NHW3 in batch])
            pieces = np.split(frames_BNHW3, range(PIECE, frames_BNHW3.shape[1], PIECE), axis=1)
            latents = self._encode(pieces)
            return [(segment, latent, frames) for (segment, frames), latent in zip(batch, latents, strict=True)]
        except Exception as error:
            if len(batch) == 1:
                self._refuse(batch[0][0], error, self._encoding)
                return []
        return [encoded for one in batch for encoded in self._encode_batch([one])]

    def _encode_long(self, segment: Segment) -> Iterator[Encoded]:
        """Encode a segment whose frames are never in memory all at once; yields nothing where that fails."""
        settings = self.settings
        first_piece: list[np.ndarray] = []

        def pieces() -> Iterator[np.ndarray]:
            for piece_NHW3 in read_in_pieces(segment, PIECE, settings.decode_cpus, settings.decode_timeout_s):
                first_piece[:] = first_piece or [piece_NHW3]
                yield piece_NHW3[None]

        try:
            latent_Cthw = self._encode(pieces())[0]
        except MediaError as error:
            self._refuse(segment, error, self._reading)
        except Exception as error:
            self._refuse(segment, error, self._encoding)
        else:
            self._reading.note(segment.content_hash)
            yield segment, latent_Cthw, first_piece[0]

    def _packed(self, latent_Cthw: torch.Tensor) -> bytes:
        try:
            return pack_latent(latent_Cthw, self.settings.dtype)
        except ValueError as error:
            raise MediaError("not_finite", str(error)) from None

    @torch.inference_mode()
    def _encode(self, pieces_BNHW3: Iterable[np.ndarray]) -> torch.Tensor:
        """Pieces of segments of one size, uint8, to their latents (B, C, t, h, w)."""
        videos = (torch.tensor(piece, device=self.device) for piece in pieces_BNHW3)
        videos = (video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1 for video in videos)
        return torch.cat(list(self.tae.encode_stream(videos, self.settings.tiling)), dim=2)

    @torch.inference_mode()
    def _canary_psnr(self, latent: bytes, frames_NHW3: np.ndarray) -> float:
        """PSNR in dB between the frames and those decoded from the very bytes in the tar."""
        latent_BCthw = unpack_latent(latent)[None].float().to(self.device)
        squared_error, done = 0.0, 0
        for video_B3NHW in self.tae.decode_stream(latent_BCthw, len(frames_NHW3), self.settings.tiling):
            decoded_NHW3 = ((video_B3NHW[0].clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).cpu()
            expected_NHW3 = torch.from_numpy(frames_NHW3[done : done + len(decoded_NHW3)].copy()).float() / 255
            squared_error += (decoded_NHW3 - expected_NHW3).square().sum().item()
            done += len(decoded_NHW3)
        return round(-10 * float(np.log10(max(squared_error / frames_NHW3.size, 1e-10))), 3)


@dataclasses.dataclass(frozen=True)
class _PackedSample:
    """What goes into the tar and the index; nothing in it can fail any more."""

    segment: Segment
    latent: bytes
    shape: list[int]
    metadata: bytes
    canary_psnr: float | None
    """In dB; None where the latent was not decoded again."""


def _add(tar: ShardWriter, sample: _PackedSample) -> dict[str, Any]:
    """Add a sample to the tar; returns its index row, without the shard's name."""
    key, source = sample.segment.key, sample.segment.provenance
    return {
        "key": key,
        **tar.add(key, LATENT, sample.latent).columns(),
        **tar.add(key, METADATA, sample.metadata).columns("metadata_"),
        "clip_id": source.clip_id,
        "license": source.license,
        "source": source.source,
        "seconds": source.end_s - source.start_s,
        "shape": sample.shape,
        "canary_psnr": sample.canary_psnr,
    }


def _batches(items: Iterable[tuple[Segment, np.ndarray]], size: int) -> Iterator[list[tuple[Segment, np.ndarray]]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
