"""Segments: which frames of which clip become which sample; fixed before anything is encoded.

A segment is a run of consecutive frames of a kept span, at exact presentation times (start + i / fps), as long as its
bucket. Everything here is arithmetic on clips.parquet: the same input gives the same segments and keys, so a killed job
resumes with the missing shards.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lingen.data.buckets import Bucket, bucket_set, nearest_bucket
from lingen.data.provenance import Provenance, sample_key

CLIPS = "clips.parquet"
COLUMNS = ["clip_id", "uri", "content_hash", "media_type", "start_s", "end_s", "width", "height"]
COLUMNS += ["caption", "license", "source", "attribution"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """One sample to make."""

    key: str
    bucket: str
    content_hash: str
    """Of the file as it was curated; a file with other content is refused."""
    start_s: float
    """Time of the first frame, in seconds from the file's first shown frame."""
    provenance: Provenance

    @property
    def times_s(self) -> list[float]:
        """Presentation time of every frame, in seconds."""
        frames = Bucket.parse(self.bucket).frames
        return [self.start_s + i / self.provenance.fps if frames > 1 else self.start_s for i in range(frames)]


@dataclasses.dataclass
class SegmentLayout:
    """The segments cut from clips at one resolution."""

    segments: dict[Bucket, list[Segment]]
    """Sorted by key within each bucket."""
    unused: Counter[str]
    """Reason -> number of clips that give no sample at a length or at all."""
    leftover_s: float
    """Seconds of video in no segment."""


def read_clips(path: Path) -> list[dict[str, Any]]:
    """Read the columns of clips.parquet that encoding needs, as rows.

    Raises:
        ValueError: the file or a column is missing.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"--curated: {path} is missing; run jobs/curate.py again")
    missing = set(COLUMNS) - set(pq.read_schema(path).names)
    if missing:
        raise ValueError(f"--curated: {path} has no column {', '.join(sorted(missing))}; run jobs/curate.py again")
    return pq.read_table(path, columns=COLUMNS).to_pylist()


def count_sample_times(start_s: float, end_s: float, fps: float) -> int:
    """Count the presentation times start, start + 1/fps, ... that lie before the end of a span."""
    return max(0, math.ceil((end_s - start_s) * fps - 1e-3))


def cut_segments(
    clips: Iterable[dict],
    *,
    resolution: int,
    frames: Sequence[int],
    fps: float,
    aspect_ratios: Sequence[str],
    max_per_clip: int,
    max_upscale: float,
    serve_shorter: bool = False,
) -> SegmentLayout:
    """Cut clips into segments at one resolution.

    Args:
        clips: rows of clips.parquet.
        resolution: nominal resolution; a frame has about resolution**2 pixels.
        frames: wanted lengths; 1 asks for images.
        fps: frames per second that videos are sampled at.
        aspect_ratios: width:height of the buckets.
        max_per_clip: most segments of one clip at each length.
        max_upscale: a clip that must be enlarged more than this to fill its bucket is left out.
        serve_shorter: a long clip gives segments of every length it can fill; otherwise the longest lengths are cut
            first and shorter ones come from what remains.

    Returns:
        The segments by bucket, with counts of what is not used.
    """
    by_length: dict[int, list[Bucket]] = defaultdict(list)
    for bucket in bucket_set(resolution, aspect_ratios, sorted(set(frames))):
        by_length[bucket.frames].append(bucket)
    layout = SegmentLayout({b: [] for buckets in by_length.values() for b in buckets}, Counter(), 0.0)
    seen = set()
    for clip in clips:
        if clip["clip_id"] in seen:
            layout.unused["duplicate clip_id"] += 1
            continue
        seen.add(clip["clip_id"])
        is_image = clip["media_type"] == "image"
        lengths = sorted((length for length in by_length if (length == 1) == is_image), reverse=True)
        if not lengths:
            layout.unused[f"no {clip['media_type']} bucket asked for"] += 1
            continue
        nearest = {length: nearest_bucket(by_length[length], clip["width"], clip["height"]) for length in lengths}
        shape = nearest[lengths[0]]
        if max(shape.width / clip["width"], shape.height / clip["height"]) > max_upscale:
            layout.unused[f"smaller than {shape.height}x{shape.width} allows"] += 1
        elif is_image:
            start_s = float(clip["start_s"])
            layout.segments[shape].append(_segment(clip, shape, 0, start_s, start_s, 0.0))
        else:
            _cut_video(clip, nearest, fps, max_per_clip, serve_shorter, layout)
    for segments in layout.segments.values():
        segments.sort(key=lambda s: s.key)
    return layout


def _cut_video(
    clip: dict,
    buckets: Mapping[int, Bucket],
    fps: float,
    max_per_clip: int,
    serve_shorter: bool,
    layout: SegmentLayout,
) -> None:
    """Add a video's segments to the layout. `buckets`: the nearest one at each length, longest first."""
    start_s = float(clip["start_s"])
    total = count_sample_times(start_s, float(clip["end_s"]), fps)
    first = used = number = 0
    for length, bucket in buckets.items():
        at = 0 if serve_shorter else first
        for _ in range(min(max_per_clip, (total - at) // length)):
            begin_s = start_s + at / fps
            layout.segments[bucket].append(_segment(clip, bucket, number, begin_s, begin_s + length / fps, fps))
            at, number = at + length, number + 1
        first, used = max(first, at), max(used, at)
    if number == 0:
        layout.unused[f"shorter than {min(buckets) / fps:g} s"] += 1
    layout.leftover_s += (total - used) / fps


def _segment(clip: dict, bucket: Bucket, number: int, start_s: float, end_s: float, fps: float) -> Segment:
    provenance = Provenance(
        clip_id=clip["clip_id"],
        uri=clip["uri"],
        caption=clip["caption"] or "",
        license=clip["license"] or "",
        source=clip["source"] or "",
        attribution=clip["attribution"] or "",
        bucket=bucket.name,
        start_s=start_s,
        end_s=end_s,
        fps=fps,
        source_width=int(clip["width"]),
        source_height=int(clip["height"]),
    )
    return Segment(
        key=sample_key(clip["clip_id"], number),
        bucket=bucket.name,
        content_hash=clip["content_hash"],
        start_s=start_s,
        provenance=provenance,
    )
