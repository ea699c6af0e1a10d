"""How much a video moves, separated into the motion of the camera and that of the scene.

Dense optical flow between small grey frames a quarter of a second apart (DIS, Kroeger et al. 2016). A similarity
transform (shift, zoom, roll) fitted to it by RANSAC is the camera's motion. The scene's is what the camera does not
explain: residual flow (object motion), and pixels that differ after the camera's motion is undone (moving area: water,
leaves and parallax show there even where flow cannot follow them). A zoomed or panned photograph has camera motion
alone. Speeds are in percent of the frame's diagonal per second, so that they mean the same at any size and rate.

h, w: sides of the small frame; P: grid points.
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

LONG_SIDE = 128
GRID = 6
NOISE_PX = 0.35
"""Residual flow below this (pixels) is sensor and compression noise, not motion."""
LEAK = 0.08
"""Share of the camera's displacement that lens distortion and errors of the flow may leave as a residual."""
LEVELS = 10
"""A pixel has changed by itself when it differs by more (of 255) from all its neighbours of the compensated frame."""
FEWEST_POINTS = 8
"""Grid points with texture that a fit of the camera's motion needs."""
FIXED = np.array([[1, 0, 0], [0, 1, 0]], np.float64)
"""The transform of a camera that does not move."""


@dataclasses.dataclass(frozen=True)
class Motion:
    """Motion between two samples."""

    total: float
    """Percent of the diagonal per second, like the next two."""
    camera: float
    object: float
    moving: float
    """Share of the picture that changed by itself."""
    camera_x: float
    """Shift of the picture to the right, signed: percent of the diagonal per second."""
    camera_y: float
    """The same, downwards."""


NONE = Motion(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
UNKNOWN = Motion(*(float("nan"),) * 6)


def small_size(height: float, width: float) -> tuple[int, int]:
    """(h, w) of the small frame: LONG_SIDE on the longer side, at least 16 on the other."""
    scale = LONG_SIDE / max(height, width)
    return max(16, round(height * scale)), max(16, round(width * scale))


def motion_between(before: np.ndarray, after: np.ndarray, seconds: float) -> Motion:
    """Estimate the motion between two grey frames, uint8 (h, w), that are `seconds` apart."""
    h, w = before.shape
    flow = _optical_flow().calc(before, after, None)  # type: ignore[call-overload]
    xs, ys, everywhere = _points(h, w)
    seen = _texture(before)[ys, xs]  # flow in flat areas is a guess
    at = everywhere[seen]
    moved = flow[ys[seen], xs[seen]]  # P, 2
    model, compensated, inside = FIXED, before, None  # inside None: everywhere
    fitted = _fit_camera(at, at + moved)
    if fitted is not None:
        shifted, seen_by_both = _compensate(before, fitted)
        # A motion that does not bring the frames closer is not the camera's: an object's was fitted.
        if _is_closer(before, after, shifted, seen_by_both):
            model, compensated, inside = fitted, shifted, seen_by_both
    camera = everywhere @ (model[:, :2] - np.eye(2)).T + model[:, 2]
    camera_px = np.hypot(*camera.T)
    objects = np.maximum(np.hypot(*(moved - camera[seen]).T) - NOISE_PX - LEAK * camera_px[seen], 0)
    total_px = camera_px.copy()
    total_px[seen] = np.hypot(*moved.T)
    unit = 100 / np.hypot(h, w) / max(seconds, 1e-3)
    return Motion(
        total=float(total_px.mean() * unit),
        camera=float(camera_px.mean() * unit),
        object=float(objects.sum() / len(everywhere) * unit),
        moving=_changed(after, compensated, inside),
        camera_x=float(model[0, 2] * unit),
        camera_y=float(model[1, 2] * unit),
    )


@functools.lru_cache(maxsize=16)
def _points(h: int, w: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and y (P,) of a grid over the frame, and both relative to its centre (P, 2)."""
    ys, xs = (side.ravel() for side in np.mgrid[GRID // 2 : h : GRID, GRID // 2 : w : GRID])
    return xs, ys, np.stack([xs, ys], 1).astype(np.float32) - (w / 2, h / 2)


def _fit_camera(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """float64 (2, 3): the similarity transform that moves points (P, 2) as seen; None without a sound one."""
    if len(before) < FEWEST_POINTS:
        return None
    model, _ = cv2.estimateAffinePartial2D(
        before, after, method=cv2.RANSAC, ransacReprojThreshold=0.5, maxIters=200, confidence=0.99
    )
    sound = model is not None and np.isfinite(model).all() and abs(np.linalg.det(model[:, :2])) > 0.1
    return model if sound else None


def _is_closer(before: np.ndarray, after: np.ndarray, compensated: np.ndarray, inside: np.ndarray) -> bool:
    """Whether compensation brings the frames closer to each other, where both see the same place."""
    return cv2.norm(after, compensated, cv2.NORM_L1, inside) < cv2.norm(after, before, cv2.NORM_L1, inside)


def _compensate(before: np.ndarray, model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`before` as it would look after the camera's motion, and where it is known (255, else 0): both (h, w)."""
    h, w = before.shape
    centre = np.array([w / 2, h / 2])
    matrix = np.concatenate([model[:, :2], (model[:, 2] + centre - model[:, :2] @ centre)[:, None]], 1)
    moved = cv2.warpAffine(before, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full_like(before, 255), matrix, (w, h), borderValue=0)
    return moved, cv2.compare(inside, 255, cv2.CMP_EQ)  # type: ignore[call-overload]


def _changed(after: np.ndarray, compensated: np.ndarray, inside: np.ndarray | None) -> float:
    """Share of pixels of `after` that the camera's motion does not explain, where both frames see the same place."""
    # Against the range of the neighbours: half a pixel of misalignment on an edge is not a change.
    near = np.ones((3, 3), np.uint8)
    highest = cv2.add(cv2.dilate(compensated, near), LEVELS)  # type: ignore[call-overload]
    lowest = cv2.subtract(cv2.erode(compensated, near), LEVELS)  # type: ignore[call-overload]
    above, below = cv2.compare(after, highest, cv2.CMP_GT), cv2.compare(after, lowest, cv2.CMP_LT)
    changed = cv2.bitwise_or(above, below, mask=inside)
    return cv2.countNonZero(changed) / (after.size if inside is None else max(1, cv2.countNonZero(inside)))


def _texture(grey: np.ndarray) -> np.ndarray:
    """bool (h, w): where the picture has structure that flow can follow."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.5)
    edges = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    return edges > 10


@functools.cache
def _optical_flow() -> cv2.DISOpticalFlow:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    dis.setFinestScale(1)  # the preset's quarter resolution is too coarse for frames this small
    dis.setPatchStride(3)
    dis.setGradientDescentIterations(25)
    dis.setVariationalRefinementIterations(0)
    return dis
