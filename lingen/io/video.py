"""Frames written for people to look at: mp4 files that every browser plays, and still grids."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

X264 = {"preset": "fast", "threads": "4"}
"""Settings of the encoder. Its bytes depend on the number of threads, which by default is the machine's."""
if platform.machine() in ("x86_64", "AMD64"):
    # x264's code for AVX-512 (mbtree with B-frames) reads memory that nothing was written to: every run would give
    # other bytes. All its other code, that in C too, gives the same; more than SSE 4.2 is not faster here.
    X264["x264-params"] = "asm=sse4.2"


def write_mp4(
    path: str | Path, frames_THW3: np.ndarray | Iterable[np.ndarray], fps: float = 16.0, crf: int = 18
) -> Path:
    """Write RGB frames as H.264 mp4 (yuv420p, index at the front, so that browsers play it while loading).

    The same frames give the same bytes in every run, on machines with whatever number of CPUs.
    Odd heights or widths lose one row or column: yuv420p stores colour for pairs of pixels. Needs PyAV.

    Args:
        path: the file; its folder is created.
        frames_THW3: uint8; a video, or an iterable of its pieces, of which one at a time is held.
        fps: frames per second.
        crf: x264's constant rate factor, lower is better.

    Returns:
        The path.

    Raises:
        ValueError: frames are not uint8 with shape (T >= 1, H >= 2, W >= 2, 3), or pieces differ in H or W.
    """
    import av

    pieces = iter([frames_THW3] if isinstance(frames_THW3, np.ndarray) else frames_THW3)
    frames = _checked(next(pieces, np.empty((0, 0, 0, 3), np.uint8)))
    size = frames.shape[1:3]
    height, width = size[0] // 2 * 2, size[1] // 2 * 2
    if not height or not width:
        raise ValueError(f"frames: need at least 2x2 pixels, got {size[0]}x{size[1]}")
    pieces = chain([frames], map(_checked, pieces))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")  # a kill leaves no half video under the final name
    try:
        partial.touch()  # unlike PyAV's, the error of a folder that cannot be written names the path
        with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), **X264})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frames in pieces:
                if frames.shape[1:3] != size:
                    raise ValueError(f"frames: a piece of {frames.shape[1:3]} follows one of {size}")
                for frame in frames:
                    picture = np.ascontiguousarray(frame[:height, :width])
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def _checked(frames: np.ndarray) -> np.ndarray:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames: need uint8 of shape (T, H, W, 3), got {frames.dtype} {frames.shape}")
    return frames


def to_uint8(video_3THW: Tensor) -> np.ndarray:
    """A video in [-1, 1], clamped to it, as uint8 (T, H, W, 3)."""
    return ((video_3THW.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()


def enlarge(frames_THW3: np.ndarray, short_side: int = 192) -> np.ndarray:
    """Repeat the pixels of small frames until they are easy to see; return frames that are large enough unchanged."""
    factor = short_side // min(frames_THW3.shape[1:3])
    return frames_THW3.repeat(factor, axis=1).repeat(factor, axis=2) if factor > 1 else frames_THW3


def frame_grid(videos: Sequence[np.ndarray], columns: int = 8, gap: int = 2) -> np.ndarray:
    """A still picture of several videos: one row per video, with frames evenly spaced in time.

    Args:
        videos: each uint8 (T, H, W, 3), of any size.
        columns: frames per video, fewer if it is shorter.
        gap: pixels between frames.

    Returns:
        uint8 (rows * H + gaps, W, 3), white between and beside the frames.
    """
    rows = []
    for frames in videos:
        picks = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
        height, width = frames.shape[1:3]
        row = np.full((height, len(picks) * (width + gap) - gap, 3), 255, np.uint8)
        for i, pick in enumerate(picks):
            row[:, i * (width + gap) : i * (width + gap) + width] = frames[pick]
        rows.append(row)
    grid = np.full((sum(r.shape[0] + gap for r in rows) - gap, max(r.shape[1] for r in rows), 3), 255, np.uint8)
    top = 0
    for row in rows:
        grid[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0] + gap
    return grid
