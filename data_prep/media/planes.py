"""The planes of a decoded frame as arrays, without copies or colour conversion: all that cheap scores need."""

from __future__ import annotations

import functools

import av
import cv2
import numpy as np

_FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG
_STRETCH = (np.clip(np.arange(256) - 16.0, 0, 219) * (255 / 219) + 0.5).astype(np.uint8)
"""Limited range to full."""


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """[luma, chroma, chroma] uint8 (or luma alone) as stored; packed and RGB formats are converted first."""
    bits = _planar_bits(frame.format.name)
    if not bits:
        frame, bits = frame.reformat(format="yuv420p", threads=1), 8
    out = []
    for plane in frame.planes:
        if bits == 8:
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            out.append(rows[:, : plane.width])
        else:
            rows = np.frombuffer(plane, np.uint16).reshape(plane.height, plane.line_size // 2)
            out.append(_Deep(rows[:, : plane.width], bits - 8))
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


class _Deep:
    """A plane of more than 8 bits that becomes 8 bits where it is looked at, not before."""

    def __init__(self, rows: np.ndarray, shift: int):
        self.rows, self.shift, self.shape = rows, shift, rows.shape

    def __getitem__(self, at) -> np.ndarray:
        return (self.rows[at] >> self.shift).astype(np.uint8)


def grey(frame: av.VideoFrame, luma: np.ndarray | _Deep, size: tuple[int, int]) -> np.ndarray:
    """The luma plane at `size` (h, w) in full range, uint8, as stored (not turned)."""
    rows = luma.rows if isinstance(luma, _Deep) else luma
    # Averaging every pixel costs more than decoding it. Of 3x3 samples it looks the same, and is averaged fast.
    if rows.shape[0] > 3 * size[0] and rows.shape[1] > 3 * size[1]:
        ys, xs = _every(rows.shape[0], 3 * size[0]), _every(rows.shape[1], 3 * size[1])
        rows = rows[ys][:, xs]
    small = cv2.resize(rows, size[::-1], interpolation=cv2.INTER_AREA)
    if isinstance(luma, _Deep):
        small = (small >> luma.shift).astype(np.uint8)
    if frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj"):
        return small
    return cv2.LUT(small, _STRETCH)
