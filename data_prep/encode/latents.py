"""Latent shards: frames at the segments' times, through the TAE, into a tar, with canaries that check the result.

The shard is the unit of work and of resuming; its content was fixed beforehand (data_prep/encode/layout.py). Short
segments go through the TAE in batches, a long one alone, read and encoded piece by piece: memory does not grow with its
length.

Legend: B segments of a batch, N frames, H/W pixels; C/t/h/w axes of a latent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.actor import ActorHandle

from data_prep.encode.layout import ShardLayout
from data_prep.encode.parts import write_part
from data_prep.encode.segment_frames import error_row, is_long, read_in_pieces, read_segments
from data_prep.encode.segments import Segment
from data_prep.media.errors import MediaError
from lingen.data.buckets import Bucket
from lingen.data.shards import LATENT, METADATA, ShardWriter, pack_latent, pack_metadata, unpack_latent
from lingen.tae.pretrained import load_tae
from lingen.tae.tiling import TilingConfig

PIECE = 64
"""Frames of a segment that are sent to the TAE at once."""

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

    def __call__(self, task: dict[str, str]) -> dict[str, int]:
        """Write one shard and its part. `task`: {"shard": a ShardLayout's JSON}. Returns counts."""
        shard = ShardLayout.from_json(task["shard"])
        rows: list[dict[str, Any]] = []
        errors: list[dict[str, str]] = []
        encoded = self._encode_segments(shard, errors)
        first = next(encoded, None)
        if first is not None:  # a shard whose clips all fail leaves no tar
            with ShardWriter(Path(self.settings.output, "latents", shard.bucket, shard.name)) as tar:
                for segment, latent_Cthw, frames_NHW3 in chain([first], encoded):
                    data = pack_latent(latent_Cthw, self.settings.dtype)
                    row = self._add(tar, shard, segment, data)
                    if len(rows) < self.settings.canaries:
                        row["canary_psnr"] = self._canary_psnr(data, frames_NHW3)
                    rows.append(row)
        write_part(self.settings.output, "latents", shard.bucket, shard.name, {"rows": rows, "errors": errors})
        return {"samples": len(rows), "errors": len(errors)}

    def _encode_segments(self, shard: ShardLayout, errors: list[dict[str, str]]) -> Iterator[Encoded]:
        """Encode the segments that can be read; the others become error rows."""
        if is_long(shard.bucket):
            for segment in shard.segments:
                yield from self._encode_long(segment, errors)
                self.tally.add.remote(1)
            return
        batch_size = max(1, self.settings.batch_frames // Bucket.parse(shard.bucket).frames)
        for batch in _batches(self._read(shard, errors), batch_size):
            frames_BNHW3 = np.stack([frames_NHW3 for _, frames_NHW3 in batch])
            pieces = np.split(frames_BNHW3, range(PIECE, frames_BNHW3.shape[1], PIECE), axis=1)
            for (segment, frames_NHW3), latent_Cthw in zip(batch, self._encode(pieces)):
                yield segment, latent_Cthw, frames_NHW3

    def _read(self, shard: ShardLayout, errors: list[dict[str, str]]) -> Iterator[tuple[Segment, np.ndarray]]:
        settings = self.settings
        found = read_segments(shard.segments, errors, settings.decode_cpus, settings.decode_timeout_s)
        for segment, frames_NHW3 in found:
            if frames_NHW3 is not None:
                yield segment, frames_NHW3
            self.tally.add.remote(1)

    def _encode_long(self, segment: Segment, errors: list[dict[str, str]]) -> Iterator[Encoded]:
        """Encode a segment whose frames are never in memory all at once; yields nothing where they cannot be read."""
        settings = self.settings
        first_piece: list[np.ndarray] = []

        def pieces() -> Iterator[np.ndarray]:
            for piece_NHW3 in read_in_pieces(segment, PIECE, settings.decode_cpus, settings.decode_timeout_s):
                first_piece[:] = first_piece or [piece_NHW3]
                yield piece_NHW3[None]

        try:
            latent_Cthw = self._encode(pieces())[0]
        except MediaError as error:
            errors.append(error_row(segment, error))
        else:
            yield segment, latent_Cthw, first_piece[0]

    @torch.inference_mode()
    def _encode(self, pieces_BNHW3: Iterable[np.ndarray]) -> torch.Tensor:
        """Pieces of segments of one size, uint8, to their latents (B, C, t, h, w)."""
        videos = (torch.tensor(piece, device=self.device) for piece in pieces_BNHW3)
        videos = (video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1 for video in videos)
        return torch.cat(list(self.tae.encode_stream(videos, self.settings.tiling)), dim=2)

    def _add(self, tar: ShardWriter, shard: ShardLayout, segment: Segment, latent: bytes) -> dict[str, Any]:
        """Add a sample to the tar; returns its index row."""
        source = segment.provenance
        latent_member = tar.add(segment.key, LATENT, latent)
        metadata_member = tar.add(segment.key, METADATA, pack_metadata(source, self.tae_digest))
        return {
            "key": segment.key,
            "shard": shard.name,
            **latent_member.columns(),
            **metadata_member.columns("metadata_"),
            "clip_id": source.clip_id,
            "license": source.license,
            "source": source.source,
            "seconds": source.end_s - source.start_s,
            "shape": list(unpack_latent(latent).shape),
            "canary_psnr": None,
        }

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


def _batches(items: Iterable[tuple[Segment, np.ndarray]], size: int) -> Iterator[list[tuple[Segment, np.ndarray]]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
