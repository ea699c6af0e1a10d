"""The planes of a decoded frame as arrays, without copies or colour conversion: all that cheap scores need.

h, w: a plane's sides.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

import av
import cv2
import numpy as np

_FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG
_STRETCH = (np.clip(np.arange(256) - 16.0, 0, 219) * (255 / 219) + 0.5).astype(np.uint8)
"""Limited range to full."""


class DeepPlane:
    """A plane of more than 8 bits that becomes 8 bits where it is indexed, not before."""

    def __init__(self, rows: np.ndarray, shift: int):
        self.rows, self.shift = rows, shift
        self.shape: tuple[int, ...] = rows.shape

    def __getitem__(self, at: tuple[np.ndarray, ...]) -> np.ndarray:
        return (self.rows[at] >> self.shift).astype(np.uint8)


Plane: TypeAlias = np.ndarray | DeepPlane
"""uint8 (h, w), or deeper."""


def planes(frame: av.VideoFrame) -> Sequence[Plane]:
    """[luma, chroma, chroma] as stored; frames that are not planar YUV are converted first."""
    bits = _planar_bits(frame.format.name)
    if not bits:
        frame, bits = frame.reformat(format="yuv420p", threads=1), 8
    out: list[Plane] = []
    for plane in frame.planes:
        if bits == 8:
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)  # type: ignore[call-overload]
            out.append(rows[:, : plane.width])
        else:
            rows = np.frombuffer(plane, np.uint16).reshape(plane.height, plane.line_size // 2)  # type: ignore[call-overload]
            out.append(DeepPlane(rows[:, : plane.width], bits - 8))
    return out[:3]


@functools.lru_cache(maxsize=64)
def _planar_bits(name: str) -> int:
    """Bits of a sample of a planar YUV format, at least 8; 0 for any other format."""
    layout = av.VideoFormat(name)
    planar = layout.is_planar and not layout.is_rgb and not layout.has_palette
    count = 1 + max(component.plane for component in layout.components)
    return max(8, layout.components[0].bits) if planar and count >= 3 else 0


@functools.lru_cache(maxsize=64)
def _every(length: int, count: int) -> np.ndarray:
    """`count` indices in the middle of equal parts of `length`."""
    return ((np.arange(count) + 0.5) * (length / count)).astype(np.intp)


def grey(frame: av.VideoFrame, luma: Plane, size: tuple[int, int], exact: bool = False) -> np.ndarray:
    """The luma plane, resized and in full range.

    Args:
        frame: the decoded frame.
        luma: its first plane.
        size: (h, w) of the result.
        exact: average every pixel, which may cost more than decoding; otherwise 3x3 samples, which look the same.
    Returns:
        uint8 (h, w), as stored (not turned).
    """
    rows = luma.rows if isinstance(luma, DeepPlane) else luma
    if not exact and rows.shape[0] > 3 * size[0] and rows.shape[1] > 3 * size[1]:
        ys, xs = _every(rows.shape[0], 3 * size[0]), _every(rows.shape[1], 3 * size[1])
        rows = rows[ys][:, xs]
    small: np.ndarray = cv2.resize(rows, size[::-1], interpolation=cv2.INTER_AREA)
    if isinstance(luma, DeepPlane):
        small = (small >> luma.shift).astype(np.uint8)
    if frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj"):
        return small
    return cv2.LUT(small, _STRETCH)
