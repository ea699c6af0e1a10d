"""Buckets: the shapes that a batch can have. One bucket is one medium, one picture size and one length.

A stage trains at one area (resolution squared) in several aspect ratios. Sides are multiples of one eighth of the
resolution, rounded down to a multiple of 16 (TAE 8 x patch 2) and at least 16. The eighth keeps the exact proportions
of an aspect ratio from stage to stage, so that positions learned at 256p stretch evenly onto 512p, and it yields the
paper's shapes: 256 x 256 and 192 x 352 at 256p, 384 x 704 at 512p (LinGen's supplement, Table 5).

Shapes: C channels, T/H/W latent axes.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

MEDIA = ("image", "video")
_NUMBER = "([1-9][0-9]{0,5})"
_NAME = re.compile(f"(?:image_{_NUMBER}x{_NUMBER}|video_{_NUMBER}x{_NUMBER}_{_NUMBER}f)")


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """The shape that all samples of a batch share."""

    media: str
    """image or video"""
    height: int
    """in pixels"""
    width: int
    """in pixels"""
    frames: int = 1
    """length; 1 for images"""

    def __post_init__(self) -> None:
        if self.media not in MEDIA:
            raise ValueError(f"bucket: media is {self.media!r}; use image or video")
        if min(self.height, self.width, self.frames) < 1 or (self.media == "image" and self.frames != 1):
            raise ValueError(
                f"bucket: {self.height}x{self.width}, {self.frames} frames is not a valid {self.media} shape"
            )

    @property
    def name(self) -> str:
        """image_64x64 or video_48x80_32f: height first, as in tensors."""
        size = f"{self.media}_{self.height}x{self.width}"
        return size if self.media == "image" else f"{size}_{self.frames}f"

    @classmethod
    def parse(cls, name: str) -> Bucket:
        """Read a bucket from its name.

        Raises:
            ValueError: the name is not that of a bucket.
        """
        match = _NAME.fullmatch(name)
        if not match:
            raise ValueError(f"bucket: {name!r} is not like image_64x64 or video_48x80_32f")
        numbers = [int(n) for n in match.groups() if n is not None]
        return cls("image", *numbers) if len(numbers) == 2 else cls("video", *numbers)

    @property
    def aspect_ratio(self) -> float:
        """Width over height."""
        return self.width / self.height

    def latent_shape(self, channels: int = 16, temporal: int = 8, spatial: int = 8) -> tuple[int, int, int, int]:
        """C, T, H, W of the TAE's latent."""
        return channels, math.ceil(self.frames / temporal), self.height // spatial, self.width // spatial


def parse_aspect_ratio(text: str) -> float:
    """Width over height of a text such as "16:9".

    Raises:
        ValueError: the text is not width:height.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) == 0 or int(match[2]) == 0:
        raise ValueError(f"aspect ratio {text!r}: write width:height, such as 16:9")
    return int(match[1]) / int(match[2])


def side_multiple(resolution: int) -> int:
    """The number that both sides are multiples of: resolution / 8 rounded down to a multiple of 16, at least 16.

    Raises:
        ValueError: the resolution is not a multiple of 16.
    """
    if resolution % 16 or resolution < 16:
        raise ValueError(f"resolution: {resolution} is not a multiple of 16 (TAE 8 x patch 2)")
    eighth = resolution // 8
    return max(16, eighth - eighth % 16)


def bucket_size(resolution: int, aspect_ratio: float) -> tuple[int, int]:
    """Height and width of about resolution^2 pixels in an aspect ratio (width over height)."""
    multiple = side_multiple(resolution)

    def rounded(side: float) -> int:
        return max(1, round(side / multiple)) * multiple

    return rounded(resolution / math.sqrt(aspect_ratio)), rounded(resolution * math.sqrt(aspect_ratio))


def bucket_set(resolution: int, aspect_ratios: Sequence[str], frames: Iterable[int]) -> list[Bucket]:
    """The buckets of a resolution: every aspect ratio at every length (1 frame: images), without duplicates."""
    buckets = []
    for count in frames:
        for ratio in aspect_ratios:
            media = "image" if count == 1 else "video"
            buckets.append(Bucket(media, *bucket_size(resolution, parse_aspect_ratio(ratio)), count))
    return list(dict.fromkeys(buckets))


def nearest_bucket(buckets: Iterable[Bucket], width: int, height: int) -> Bucket:
    """The bucket whose aspect ratio is nearest to that of width x height, on a log scale; ties go by name."""
    ratio = width / height
    return min(buckets, key=lambda b: (round(abs(math.log(b.aspect_ratio / ratio)), 9), b.name))
