"""Short windows of pixels for training the TAE: decoded once from curated clips, then read at random.

    pixels/<key>.npy   uint8 (T, H, W, 3), one file a window
    pixels/index.json  all windows, written last: key, clip_id, source, media, held_out

Whole sources are held out, not windows: two clips of one recording never stand on both sides.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.encode.segment_frames import windows_with_frames
from data_prep.encode.segments import Window, plan_windows
from lingen.io.manifest import read_json, write_json
from lingen.io.progress import Progress

INDEX = "index.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """Which windows are cut from the curated clips."""

    resolution: int = 256
    """area of a picture is resolution squared"""
    frames: int = 32
    """frames of a video window"""
    fps: float = 16.0
    """frames per second that videos are sampled at"""
    aspect_ratios: tuple[str, ...] = ("1:1", "16:9", "9:16", "4:3", "3:4")
    """shapes, width:height; a clip goes to the nearest and is cut to it from the centre"""
    windows_per_clip: int = 4
    """at most so many windows from one clip"""
    held_out: float = 0.15
    """share of the sources kept for validation (at least one, when there are two)"""
    decode_timeout_s: float = 120.0
    """a window that takes longer is left out"""

    def __post_init__(self):
        if not 0 < self.held_out < 1:
            raise ValueError(f"--pixels.held-out: must be between 0 and 1, got {self.held_out}")
        if self.frames < 2:
            raise ValueError(f"--pixels.frames: need at least 2 frames in a video window, got {self.frames}")


@dataclasses.dataclass(frozen=True)
class PixelWindow:
    """One decoded window."""

    key: str
    clip_id: str
    source: str
    media: str
    held_out: bool

    def read(self, folder: Path) -> np.ndarray:
        """uint8 (T, H, W, 3), mapped, not loaded."""
        return np.load(folder / f"{self.key}.npy", mmap_mode="r")


def write_pixels(clips: Sequence[dict], folder: Path, config: PixelConfig) -> tuple[list[PixelWindow], list[dict]]:
    """Decode the windows of curated clips; goes on where an interrupted run stopped.

    Args: clips, rows of clips.parquet. Returns (windows, errors): errors have key, clip_id, reason, detail.

    Raises:
        ValueError: no clip gives a window.
    """
    if (folder / INDEX).is_file():
        found = read_json(folder / INDEX)
        return [PixelWindow(**w) for w in found["windows"]], found["errors"]
    plan = plan_windows(
        clips,
        resolution=config.resolution,
        frames=(1, config.frames),
        fps=config.fps,
        aspect_ratios=config.aspect_ratios,
        max_windows_per_clip=config.windows_per_clip,
        max_upscale=1.25,
    )
    windows = [w for of_bucket in plan.windows.values() for w in of_bucket]
    if not windows:
        why = "; ".join(f"{n} {reason}" for reason, n in plan.unused.items()) or "it keeps none"
        raise ValueError(f"--curated: no clip gives a window of {config.frames} frames at {config.resolution}p ({why})")
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.stem for path in folder.glob("*.npy")}
    missing = [w for w in windows if w.key not in there]
    errors: list[dict] = []
    progress = Progress("decode", len(windows), unit="windows", done=len(windows) - len(missing))
    for window, frames in windows_with_frames(missing, errors, num_cpus=0.5, timeout_s=config.decode_timeout_s):
        if frames is not None:
            part = folder / f".{window.key}.npy"
            with open(part, "wb") as f:
                np.save(f, frames)
            part.rename(folder / f"{window.key}.npy")
            there.add(window.key)
        progress.update()
    progress.close()
    done = _split([w for w in windows if w.key in there], config.held_out)
    write_json(folder / INDEX, {"windows": done, "errors": errors})
    return done, errors


def _split(windows: list[Window], held_out: float) -> list[PixelWindow]:
    """Hold out sources by the order of their hashes: stable when clips are added, blind to what is in them.

    Only sources with videos count towards the share: photographs alone would say nothing about time.
    """
    videos = {_source(w) for w in windows if not w.bucket.startswith("image")} or {_source(w) for w in windows}
    by_hash = sorted(videos, key=lambda s: hashlib.sha256(s.encode()).hexdigest())
    count = max(1, round(len(by_hash) * held_out)) if len(by_hash) > 1 else 0
    chosen = set(by_hash[:count])
    return [
        PixelWindow(w.key, w.provenance.clip_id, _source(w), w.bucket.partition("_")[0], _source(w) in chosen)
        for w in windows
    ]


def _source(window: Window) -> str:
    """What was recorded once: the manifest's source, else the file's content."""
    return window.provenance.source or window.provenance.clip_id.partition("-")[0]
