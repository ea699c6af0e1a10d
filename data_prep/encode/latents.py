"""One latent shard: frames at the windows' times, through the TAE, into a tar, with canaries to prove it.

The shard is the unit of work and of resuming; its content was fixed beforehand (data_prep/encode/segments.py). Short
segments go through the TAE several at once, a long one alone, read and encoded piece by piece: memory is flat in its
length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from data_prep.encode.parts import write_part
from data_prep.encode.segment_frames import error_row, frames_in_pieces, is_long, windows_with_frames
from data_prep.encode.segments import ShardPlan, Window
from data_prep.media.probe import MediaError
from lingen.data.buckets import Bucket
from lingen.data.shards import LATENT, METADATA, ShardWriter, pack_latent, pack_metadata, unpack_latent
from lingen.tae.pretrained import load_tae
from lingen.tae.tiling import TilingConfig

PIECE = 64
"""Frames of a window that are on their way to the TAE at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentSettings:
    """What a worker must know to encode shards."""

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
    """The actor: loads the TAE once, encodes one shard per call. `tally` counts windows for the progress line."""

    def __init__(self, settings: LatentSettings, tally):
        torch.set_num_threads(settings.threads)
        self.settings, self.tally = settings, tally
        self.device = torch.device(settings.device)
        self.tae = load_tae(settings.tae).to(self.device)
        self.tae_digest = self.tae.digest

    def __call__(self, row: dict) -> dict:
        shard = ShardPlan.from_json(row["shard"])
        rows, errors = [], []
        encoded = self._encoded(shard, errors)
        first = next(encoded, None)
        if first is not None:  # a shard whose clips all fail leaves no tar
            with ShardWriter(Path(self.settings.output, "latents", shard.bucket, shard.name)) as tar:
                for window, latent_CTHW, frames_NHW3 in chain([first], encoded):
                    data = pack_latent(latent_CTHW, self.settings.dtype)
                    row = self._add(tar, shard, window, data)
                    if len(rows) < self.settings.canaries:
                        row["canary_psnr"] = self._canary(data, frames_NHW3)
                    rows.append(row)
        write_part(self.settings.output, "latents", shard.bucket, shard.name, {"rows": rows, "errors": errors})
        return {"samples": len(rows), "errors": len(errors)}

    def _encoded(self, shard: ShardPlan, errors: list[dict]) -> Iterator[tuple[Window, torch.Tensor, np.ndarray]]:
        """The windows that can be read: latent (C, T, H, W) and frames to compare it with (of a long window, some)."""
        options = {"num_cpus": self.settings.decode_cpus, "timeout_s": self.settings.decode_timeout_s}
        if is_long(shard.bucket):
            for window in shard.windows:
                yield from self._encoded_long(window, errors, options)
                self.tally.add.remote(1)
            return
        size = max(1, self.settings.batch_frames // Bucket.parse(shard.bucket).frames)
        for batch in _batches(self._frames(shard, errors, options), size):
            frames_BNHW3 = np.stack([frames_NHW3 for _, frames_NHW3 in batch])
            pieces = np.split(frames_BNHW3, range(PIECE, frames_BNHW3.shape[1], PIECE), axis=1)
            for (window, frames_NHW3), latent_CTHW in zip(batch, self._encode(pieces)):
                yield window, latent_CTHW, frames_NHW3

    def _frames(self, shard: ShardPlan, errors: list[dict], options: dict) -> Iterator[tuple[Window, np.ndarray]]:
        for window, frames_NHW3 in windows_with_frames(shard.windows, errors, **options):
            if frames_NHW3 is not None:
                yield window, frames_NHW3
            self.tally.add.remote(1)

    def _encoded_long(
        self, window: Window, errors: list[dict], options: dict
    ) -> Iterator[tuple[Window, torch.Tensor, np.ndarray]]:
        """A window whose frames are never in memory all at once; nothing and an error row where they cannot be had."""
        first_piece: list[np.ndarray] = []

        def pieces() -> Iterator[np.ndarray]:
            for piece_NHW3 in frames_in_pieces(window, PIECE, **options):
                first_piece[:] = first_piece or [piece_NHW3]
                yield piece_NHW3[None]

        try:
            latent_CTHW = self._encode(pieces())[0]
        except MediaError as error:
            errors.append(error_row(window, error.reason, error.detail))
        else:
            yield window, latent_CTHW, first_piece[0]

    @torch.inference_mode()
    def _encode(self, pieces_BNHW3: Iterable[np.ndarray]) -> torch.Tensor:
        """Pieces of windows of one size, uint8, to their latents (B, C, T, H, W)."""
        videos = (torch.tensor(piece, device=self.device) for piece in pieces_BNHW3)
        videos = (video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1 for video in videos)
        return torch.cat(list(self.tae.encode_stream(videos, self.settings.tiling)), dim=2)

    def _add(self, tar: ShardWriter, shard: ShardPlan, window: Window, latent: bytes) -> dict:
        source = window.provenance
        a = tar.add(window.key, LATENT, latent)
        b = tar.add(window.key, METADATA, pack_metadata(source, self.tae_digest))
        return {
            "key": window.key,
            "shard": shard.name,
            **a.columns(),
            **b.columns("metadata_"),
            "clip_id": source.clip_id,
            "license": source.license,
            "source": source.source,
            "seconds": source.end_s - source.start_s,
            "shape": list(unpack_latent(latent).shape),
            "canary_psnr": None,
        }

    @torch.inference_mode()
    def _canary(self, latent: bytes, frames_NHW3: np.ndarray) -> float:
        """PSNR in dB of the frames decoded again from the very bytes in the tar."""
        latent_BCTHW = unpack_latent(latent)[None].float().to(self.device)
        error, done = 0.0, 0
        for video_B3THW in self.tae.decode_stream(latent_BCTHW, len(frames_NHW3), self.settings.tiling):
            decoded_NHW3 = ((video_B3THW[0].clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).cpu()
            expected_NHW3 = torch.from_numpy(frames_NHW3[done : done + len(decoded_NHW3)].copy()).float() / 255
            error += (decoded_NHW3 - expected_NHW3).square().sum().item()
            done += len(decoded_NHW3)
        return round(-10 * float(np.log10(max(error / frames_NHW3.size, 1e-10))), 3)


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
