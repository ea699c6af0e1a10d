"""Where a sample comes from, and its key. Without torch: processes that only read frames import this."""

from __future__ import annotations

import dataclasses
import hashlib
import re


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """The json member: where a sample comes from and on which terms it may be used."""

    clip_id: str
    """Content hash and span of the curated clip."""
    uri: str
    """Where the clip was read from."""
    caption: str
    license: str
    """SPDX expression."""
    source: str
    attribution: str
    bucket: str
    start_s: float
    """Presentation time of the first frame in the source, seconds."""
    end_s: float
    """When the last frame stops being shown, seconds; equals start_s for images."""
    fps: float
    """Frames per second of the sample; 0 for images."""
    source_width: int
    """Width as displayed, before the centre crop that fills the bucket."""
    source_height: int
    """Height as displayed."""


def sample_key(clip_id: str, segment: int) -> str:
    """The key of a segment of a clip, without dots and slashes, which would end the key for plain `webdataset`."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", clip_id)[:64]  # a tar name has 100 bytes
    if safe != clip_id:  # two ids must not share a key
        safe += "-" + hashlib.sha256(clip_id.encode()).hexdigest()[:8]
    return f"{safe}_w{segment:04d}"
