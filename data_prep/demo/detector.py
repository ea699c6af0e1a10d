"""Reads colour, shape and direction of a scene's shape off its frames, without any weights.

The shape is what is colourful: the largest patch of saturated pixels. Its hue is the colour, and the way of its middle
is the direction. A bar is the one that is slim; of the box around it a ball fills pi/4, a triangle 1/2.

N frames of H x W pixels.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import numpy as np

from data_prep.demo.scenes import COLORS, DIRECTIONS

_HUES = {name: colorsys.rgb_to_hsv(*(c / 255 for c in rgb))[0] for name, rgb in COLORS.items()}
MIN_CHROMA = 60
"""largest minus smallest of a pixel's red, green and blue, from which it counts as colourful (0 to 255)"""
MIN_AREA = 0.015
"""of a shape, as a share of the frame"""
MIN_WAY = 0.06
"""of a shape that moves, as a share of the side"""
MAX_STEP = 0.3
"""of its middle between frames, as a share of the side; farther, it left the picture and came in on the other side"""
SLIM = 0.7
"""width over height below which a shape is a bar"""
MAX_TRIANGLE = 0.68
"""the largest share of the box around it that a triangle fills"""


class Seen(NamedTuple):
    """What a clip shows; None where nothing can be told."""

    color: str | None
    shape: str | None
    direction: str | None


class _Patch(NamedTuple):
    hue: float
    slimness: float
    """width over height"""
    filled: float
    """share of the box around it"""
    whole: bool
    """whether it is clear of the frame's edge"""
    x: float
    y: float


def see(frames_NHW3: np.ndarray) -> Seen:
    """What a clip shows: uint8 RGB (N, H, W, 3)."""
    patches = [patch for frame in frames_NHW3 if (patch := _patch(frame)) is not None]
    if not patches:
        return Seen(None, None, None)
    direction = _direction(patches) if len(patches) >= len(frames_NHW3) / 2 else None
    return Seen(_color(patches), _shape(patches), direction)


def _patch(frame: np.ndarray) -> _Patch | None:
    """The largest colourful patch of a frame."""
    import cv2

    height, width = frame.shape[:2]
    pixels = frame.astype(np.int16)
    chroma = pixels.max(axis=2) - pixels.min(axis=2)
    peak = np.percentile(chroma, 98)
    if peak < MIN_CHROMA:
        return None
    count, labels, stats, middles = cv2.connectedComponentsWithStats(
        (chroma > max(peak / 2, MIN_CHROMA / 2)).astype(np.uint8)
    )
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    left, top, w, h, area = stats[largest]
    if area < MIN_AREA * height * width:
        return None
    strong = (labels == largest) & (chroma >= np.percentile(chroma[labels == largest], 50))
    red, green, blue = (frame[strong].mean(axis=0) / 255).tolist()
    whole = left > 0 and top > 0 and left + w < width and top + h < height
    x, y = middles[largest]
    return _Patch(colorsys.rgb_to_hsv(red, green, blue)[0], w / h, area / (w * h), whole, x / width, y / height)


def _color(patches: list[_Patch]) -> str:
    """The name whose hue is nearest to most patches."""

    def nearest(hue: float) -> str:
        return min(_HUES, key=lambda name: min(abs(hue - _HUES[name]), 1 - abs(hue - _HUES[name])))

    names = [nearest(patch.hue) for patch in patches]
    return max(dict.fromkeys(names), key=names.count)


def _shape(patches: list[_Patch]) -> str:
    whole = [patch for patch in patches if patch.whole] or patches
    if np.median([patch.slimness for patch in whole]) < SLIM:
        return "bar"
    return "triangle" if np.median([patch.filled for patch in whole]) < MAX_TRIANGLE else "ball"


def _direction(patches: list[_Patch]) -> str | None:
    """Along the axis on which the middle moves farther, if it moves at all and not about as far on the other."""
    middles = np.array([(patch.x, patch.y) for patch in patches])
    steps = np.diff(middles, axis=0)
    way = steps[np.abs(steps).max(axis=1) < MAX_STEP].sum(axis=0)
    if np.abs(way).max() < MIN_WAY or np.abs(way).min() > 0.7 * np.abs(way).max():
        return None
    axis = int(np.abs(way).argmax())
    step = (np.sign(way[0]), 0) if axis == 0 else (0, np.sign(way[1]))
    return next(name for name, change in DIRECTIONS.items() if change == step)
