"""Windows: which frames of which clip become which sample, and in which shard it lies. All fixed before encoding.

A window is a run of consecutive frames of a kept span, at exact presentation times (start + i / fps), as long as its
bucket. Everything here is arithmetic on clips.parquet: the same input gives the same windows, keys and shards, so a job
that was killed goes on with the shards that are missing.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from lingen.data.buckets import Bucket, bucket_set, nearest_bucket
from lingen.data.shards import DTYPES, Provenance, sample_key

MEMBER_OVERHEAD = 2560
"""Bytes of a sample beside its latent: tar headers, padding and the json member, about."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """One sample to be made."""

    key: str
    bucket: str
    content_hash: str
    """Of the file as it was curated; another content is refused."""
    start_s: float
    """Time of the first frame, seconds from the first shown frame of the file."""
    provenance: Provenance

    @property
    def times_s(self) -> list[float]:
        """Presentation time of every frame."""
        frames = Bucket.parse(self.bucket).frames
        return [self.start_s + i / self.provenance.fps if frames > 1 else self.start_s for i in range(frames)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """The windows of one tar."""

    bucket: str
    number: int
    windows: tuple[Window, ...]

    @property
    def name(self) -> str:
        return f"{self.number:06d}.tar"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardPlan:
        plan = json.loads(text)
        windows = (Window(**w | {"provenance": Provenance(**w["provenance"])}) for w in plan.pop("windows"))
        return cls(windows=tuple(windows), **plan)


@dataclasses.dataclass
class WindowPlan:
    """What plan_windows found.

    Fields: windows, sorted by key within their bucket; unused, reason -> number of clips that give no sample at a
    length or at all; leftover_s, seconds of video in no window.
    """

    windows: dict[Bucket, list[Window]]
    unused: Counter
    leftover_s: float


def sample_times(start_s: float, end_s: float, fps: float) -> int:
    """How many presentation times start, start + 1/fps, ... lie before the end of a span."""
    return max(0, math.ceil((end_s - start_s) * fps - 1e-3))


def plan_windows(
    clips: Iterable[dict],
    *,
    resolution: int,
    frames: Sequence[int],
    fps: float,
    aspect_ratios: Sequence[str],
    max_windows_per_clip: int,
    max_upscale: float,
    serve_shorter: bool = False,
) -> WindowPlan:
    """Cut clips into windows of one resolution.

    Args:
        clips: rows of clips.parquet.
        frames: wanted lengths; 1 asks for images.
        max_windows_per_clip: at each length.
        max_upscale: a clip that must be enlarged more than this to fill its bucket is left out.
        serve_shorter: a long clip gives windows of every length it can fill; otherwise the longest lengths are cut
            first and shorter ones come from what remains.
    """
    buckets = bucket_set(resolution, aspect_ratios, sorted(set(frames)))
    by_length: dict[int, list[Bucket]] = defaultdict(list)
    for bucket in buckets:
        by_length[bucket.frames].append(bucket)
    plan = WindowPlan({b: [] for b in buckets}, Counter(), 0.0)
    seen = set()
    for clip in clips:
        if clip["clip_id"] in seen:
            plan.unused["duplicate clip_id"] += 1
            continue
        seen.add(clip["clip_id"])
        lengths = [1] if clip["media_type"] == "image" else sorted((f for f in by_length if f > 1), reverse=True)
        lengths = [f for f in lengths if f in by_length]
        if not lengths:
            plan.unused[f"no {clip['media_type']} bucket asked for"] += 1
            continue
        shape = nearest_bucket(by_length[lengths[0]], clip["width"], clip["height"])
        if max(shape.width / clip["width"], shape.height / clip["height"]) > max_upscale:
            plan.unused[f"smaller than {shape.height}x{shape.width} allows"] += 1
            continue
        _cut(clip, lengths, by_length, fps, max_windows_per_clip, serve_shorter, plan)
    for windows in plan.windows.values():
        windows.sort(key=lambda w: w.key)
    return plan


def _cut(clip, lengths, by_length, fps, most, serve_shorter, plan: WindowPlan) -> None:
    start_s = float(clip["start_s"])
    if clip["media_type"] == "image":
        bucket = nearest_bucket(by_length[1], clip["width"], clip["height"])
        plan.windows[bucket].append(_window(clip, bucket, 0, start_s, start_s, 0.0))
        return
    total = sample_times(start_s, float(clip["end_s"]), fps)
    first = used = number = 0
    for length in lengths:
        bucket = nearest_bucket(by_length[length], clip["width"], clip["height"])
        at = 0 if serve_shorter else first
        for _ in range(min(most, (total - at) // length)):
            begin = start_s + at / fps
            plan.windows[bucket].append(_window(clip, bucket, number, begin, begin + length / fps, fps))
            at, number = at + length, number + 1
        first, used = max(first, at), max(used, at)
    if number == 0:
        plan.unused[f"shorter than {min(lengths) / fps:g} s"] += 1
    plan.leftover_s += (total - used) / fps


def _window(clip: dict, bucket: Bucket, number: int, start_s: float, end_s: float, fps: float) -> Window:
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
    return Window(
        key=sample_key(clip["clip_id"], number),
        bucket=bucket.name,
        content_hash=clip["content_hash"],
        start_s=start_s,
        provenance=provenance,
    )


def plan_shards(
    bucket: Bucket, windows: Sequence[Window], latent_shape: Sequence[int], dtype: str, shard_mb: float
) -> list[ShardPlan]:
    """Cut a bucket's windows into shards of about `shard_mb` megabytes (a sample's size is known beforehand)."""
    sample = math.prod(latent_shape) * DTYPES[dtype].itemsize + MEMBER_OVERHEAD
    per_shard = max(1, int(shard_mb * 1e6 / sample))
    return [
        ShardPlan(bucket=bucket.name, number=i // per_shard, windows=tuple(windows[i : i + per_shard]))
        for i in range(0, len(windows), per_shard)
    ]
