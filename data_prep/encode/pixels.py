"""Short segments of pixels for training the TAE: decoded once from curated clips, then read at random.

    pixels/<key>.npy   uint8 (N, H, W, 3), one file per segment
    pixels/index.json  all segments under "windows", written last: key, clip_id, source, media, held_out

Whole sources are held out, not segments: two clips of one recording never stand on both sides.

Legend: N frames, H/W pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.encode.error_table import ErrorRow, error_row
from data_prep.encode.segment_frames import read_segments
from data_prep.encode.segments import Segment, cut_segments
from data_prep.media.errors import BugAlarm, MediaError
from lingen.io.manifest import read_json, to_plain, write_json
from lingen.io.progress import Progress

INDEX = "index.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """Which segments are cut from the curated clips."""

    resolution: int = 256
    """a frame has about resolution squared pixels; a multiple of 16"""
    frames: int = 32
    """frames of a video segment"""
    fps: float = 16.0
    """frames per second that videos are sampled at"""
    aspect_ratios: tuple[str, ...] = ("1:1", "16:9", "9:16", "4:3", "3:4")
    """aspect ratios, width:height; each clip is cropped about its centre to the nearest"""
    windows_per_clip: int = 4
    """most segments of one clip"""
    clips: int = 0
    """most clips that are read, chosen by the hashes of their sources, so that adding clips keeps most; 0: all"""
    held_out: float = 0.15
    """share of the sources kept for validation (at least one, if there are two)"""
    decode_timeout_s: float = 120.0
    """seconds to wait for the frames of a segment before it is left out"""

    def __post_init__(self):
        if not 0 < self.held_out < 1:
            raise ValueError(f"--pixels.held-out: must be between 0 and 1, got {self.held_out}")
        if self.frames < 2:
            raise ValueError(f"--pixels.frames: a video segment needs at least 2 frames, got {self.frames}")
        if self.clips < 0:
            raise ValueError(f"--pixels.clips: must not be negative, got {self.clips}")

    def content(self) -> dict[str, Any]:
        """The settings as they enter the key of a folder; those of version 0.1.0 had no `clips`."""
        return {name: value for name, value in to_plain(self).items() if name != "clips" or value}


@dataclasses.dataclass(frozen=True)
class PixelSegment:
    """One decoded segment."""

    key: str
    clip_id: str
    source: str
    media: str
    held_out: bool

    def read(self, folder: Path) -> np.ndarray:
        """The frames, uint8 (N, H, W, 3), memory-mapped."""
        return np.load(folder / f"{self.key}.npy", mmap_mode="r")


def write_pixels(
    clips: Sequence[dict[str, Any]], folder: Path, config: PixelConfig
) -> tuple[list[PixelSegment], list[ErrorRow]]:
    """Decode the segments of curated clips; resumes an interrupted run.

    Args:
        clips: rows of clips.parquet.
        folder: where the files go.
        config: which segments to cut.

    Returns:
        The decoded segments, and a row of the errors table for each that cannot be read.

    Raises:
        ValueError: no clip yields a segment, or none can be read.
        OurBug: many different clips in a row raise what nobody expected.
    """
    if (folder / INDEX).is_file():
        found = read_json(folder / INDEX)
        return [PixelSegment(**s) for s in found["windows"]], found["errors"]
    segments = _cut(clips, config)
    folder.mkdir(parents=True, exist_ok=True)
    decoded = {path.stem for path in folder.glob("*.npy")}
    missing = [s for s in segments if s.key not in decoded]
    errors: list[ErrorRow] = []
    alarm = BugAlarm()
    progress = Progress("decode", len(segments), unit="segments", done=len(segments) - len(missing))
    for segment, frames in read_segments(missing, num_cpus=0.5, timeout_s=config.decode_timeout_s):
        if isinstance(frames, MediaError):
            errors.append(error_row(segment, frames))
            alarm.note(segment.content_hash, errors[-1])
        else:
            _save(folder, segment.key, frames)
            decoded.add(segment.key)
            alarm.note(segment.content_hash)
        progress.update()
    progress.close()
    if not any(s.key in decoded for s in segments):
        first = errors[0]
        raise ValueError(
            f"--curated: none of {len(segments)} segments could be read, the first because of {first['reason']}: "
            f"{first['detail']}"
        )
    done = _split([s for s in segments if s.key in decoded], config.held_out)
    write_json(folder / INDEX, {"windows": done, "errors": errors})
    return done, errors


def _save(folder: Path, key: str, frames_NHW3: np.ndarray) -> None:
    """Write a segment's file, which appears when it is complete."""
    part = folder / f".{key}.npy"
    with open(part, "wb") as f:
        np.save(f, frames_NHW3)
    part.rename(folder / f"{key}.npy")


def _cut(clips: Sequence[dict[str, Any]], config: PixelConfig) -> list[Segment]:
    """The segments of all buckets."""
    layout = cut_segments(
        _chosen(clips, config.clips),
        resolution=config.resolution,
        frames=(1, config.frames),
        fps=config.fps,
        aspect_ratios=config.aspect_ratios,
        max_per_clip=config.windows_per_clip,
        max_upscale=1.25,
    )
    segments = [s for of_bucket in layout.segments.values() for s in of_bucket]
    if not segments:
        why = "; ".join(f"{n} {reason}" for reason, n in layout.unused.items()) or "there are no clips"
        raise ValueError(
            f"--curated: no clip yields a segment of {config.frames} frames at {config.resolution}p ({why}); "
            "change --pixels.frames or --pixels.resolution"
        )
    return segments


def _chosen(clips: Sequence[dict[str, Any]], count: int) -> Sequence[dict[str, Any]]:
    """At most `count` of the clips (0: all), in their order; of a source all, but for the last one."""
    if not 0 < count < len(clips):
        return clips
    by_hash = sorted(clips, key=lambda clip: (_hash(clip["source"] or clip["clip_id"]), clip["clip_id"]))
    ids = {clip["clip_id"] for clip in by_hash[:count]}
    return [clip for clip in clips if clip["clip_id"] in ids]


def _split(segments: list[Segment], held_out: float) -> list[PixelSegment]:
    """Hold out sources by the order of their hashes: stable when clips are added, independent of their content.

    Only sources with videos count towards the share: photographs alone would tell nothing about time.
    """
    videos = {_source(s) for s in segments if not s.bucket.startswith("image")} or {_source(s) for s in segments}
    by_hash = sorted(videos, key=_hash)
    count = max(1, round(len(by_hash) * held_out)) if len(by_hash) > 1 else 0
    chosen = set(by_hash[:count])
    return [
        PixelSegment(s.key, s.provenance.clip_id, _source(s), s.bucket.partition("_")[0], _source(s) in chosen)
        for s in segments
    ]


def _hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _source(segment: Segment) -> str:
    """The recording: the manifest's source, else the file's content."""
    return segment.provenance.source or segment.provenance.clip_id.partition("-")[0]
