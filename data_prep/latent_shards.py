"""One latent shard: frames at the windows' times, through the TAE, into a tar, with canaries to prove it.

The shard is the unit of work and of resuming; what is in it was fixed beforehand (data_prep/windows.py).

N frames, B batch, C channels, T/H/W latent axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from data_prep.shard_parts import write_part
from data_prep.window_frames import windows_with_frames
from data_prep.windows import ShardPlan, Window
from lingen.buckets import Bucket
from lingen.shards import LATENT, METADATA, ShardWriter, pack_latent, pack_metadata, unpack_latent
from lingen.tae import load_tae


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentSettings:
    """What a worker must know to encode shards."""

    output: str
    tae: str
    dtype: str
    batch_frames: int
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
        batches = _batches(self._frames(shard, errors), self._batch_size(shard))
        first = next(batches, None)
        if first is not None:  # a shard whose clips all fail leaves no tar
            with ShardWriter(Path(self.settings.output, "latents", shard.bucket, shard.name)) as tar:
                self._write(tar, shard, first, rows)
                for batch in batches:
                    self._write(tar, shard, batch, rows)
        write_part(self.settings.output, "latents", shard.bucket, shard.name, {"rows": rows, "errors": errors})
        return {"samples": len(rows), "errors": len(errors)}

    def _batch_size(self, shard: ShardPlan) -> int:
        return max(1, self.settings.batch_frames // Bucket.parse(shard.bucket).frames)

    def _frames(self, shard: ShardPlan, errors: list[dict]) -> Iterator[tuple[Window, np.ndarray]]:
        options = {"num_cpus": self.settings.decode_cpus, "timeout_s": self.settings.decode_timeout_s}
        for window, frames_NHW3 in windows_with_frames(shard.windows, errors, **options):
            if frames_NHW3 is not None:
                yield window, frames_NHW3
            self.tally.add.remote(1)

    @torch.inference_mode()
    def _write(self, tar: ShardWriter, shard: ShardPlan, batch: list[tuple[Window, np.ndarray]], rows: list) -> None:
        """Encode a batch of equal-sized windows and append its samples and their index rows."""
        frames = torch.from_numpy(np.stack([frames_NHW3 for _, frames_NHW3 in batch])).to(self.device)
        latents = self.tae.encode(frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
        for (window, frames_NHW3), latent_CTHW in zip(batch, latents):
            data = pack_latent(latent_CTHW, self.settings.dtype)
            row = self._add(tar, shard, window, data)
            if len(rows) < self.settings.canaries:
                row["canary_psnr"] = self._canary(data, frames_NHW3)
            rows.append(row)

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

    def _canary(self, latent: bytes, frames_NHW3: np.ndarray) -> float:
        """PSNR in dB of the frames decoded again from the very bytes in the tar."""
        latent_BCTHW = unpack_latent(latent)[None].float().to(self.device)
        video_3THW = self.tae.decode(latent_BCTHW, frames=len(frames_NHW3))[0]
        decoded_NHW3 = ((video_3THW.clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).cpu()
        error = (decoded_NHW3 - torch.from_numpy(frames_NHW3.copy()).float() / 255).square().mean().item()
        return round(-10 * float(np.log10(max(error, 1e-10))), 3)


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
