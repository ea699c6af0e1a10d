"""The planes of a decoded frame as arrays, without copies or colour conversion: all that cheap scores need."""

from __future__ import annotations

import av
import cv2
import numpy as np

_FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """[luma, chroma, chroma] uint8 (or luma alone) as stored; packed and RGB formats are converted first."""
    layout = frame.format
    if not layout.is_planar or layout.is_rgb or layout.has_palette or len(frame.planes) < 3:
        frame = frame.reformat(format="yuv420p", threads=1)
        layout = frame.format
    bits = layout.components[0].bits
    out = []
    for plane in frame.planes[:3]:
        if bits <= 8:
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            out.append(rows[:, : plane.width])
        else:
            rows = np.frombuffer(plane, np.uint16).reshape(plane.height, plane.line_size // 2)
            out.append(_Deep(rows[:, : plane.width], bits - 8))
    return out


class _Deep:
    """A plane of more than 8 bits that becomes 8 bits where it is looked at, not before."""

    def __init__(self, rows: np.ndarray, shift: int):
        self.rows, self.shift, self.shape = rows, shift, rows.shape

    def __getitem__(self, at) -> np.ndarray:
        return (self.rows[at] >> self.shift).astype(np.uint8)


def grey(frame: av.VideoFrame, luma: np.ndarray | _Deep, size: tuple[int, int]) -> np.ndarray:
    """The luma plane at `size` (h, w) in full range, uint8, as stored (not turned)."""
    # Area averaging of every pixel costs more than decoding it; of every second or third it looks the same.
    step_y, step_x = max(1, luma.shape[0] // (3 * size[0])), max(1, luma.shape[1] // (3 * size[1]))
    small = cv2.resize(np.ascontiguousarray(luma[::step_y, ::step_x]), size[::-1], interpolation=cv2.INTER_AREA)
    if frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj"):
        return small
    return cv2.convertScaleAbs(np.maximum(small, 16) - 16, alpha=255 / 219)
