"""How much a video moves, told apart into the camera's motion and what moves in the scene.

Dense optical flow between small grey frames a quarter of a second apart (DIS, Kroeger et al. 2016). A similarity
transform (shift, zoom, roll) fitted to it by RANSAC is what the camera did. What the scene does is what the camera does
not explain: flow left over (object motion), and pixels that differ after the camera's move is undone (moving area:
water, leaves and parallax show there even where flow cannot follow them). A zoomed or panned photograph has camera
motion alone. Speeds are in percent of the frame's diagonal per second, so that they mean the same at any size and rate.

h, w: the small frame; P: grid points.
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

LONG_SIDE = 128
GRID = 6
NOISE_PX = 0.35
"""Residual flow below this is sensor and compression noise, not motion."""
LEAK = 0.08
"""Share of the camera's displacement that may be left over by lens distortion and the flow's own error."""
LEVELS = 10
"""A pixel has changed by itself when it differs by more (of 255) from all its neighbours of the undone frame."""
FEWEST_POINTS = 8


@dataclasses.dataclass(frozen=True)
class Motion:
    """Between two samples. total, camera, object: %/s of the diagonal; moving: share of the picture that changed by
    itself; camera_x, camera_y: %/s, signed."""

    total: float
    camera: float
    object: float
    moving: float
    camera_x: float
    camera_y: float


def small_size(height: float, width: float) -> tuple[int, int]:
    """(h, w) with LONG_SIDE as the longer one, at least 16 on the other."""
    scale = LONG_SIDE / max(height, width)
    return max(16, round(height * scale)), max(16, round(width * scale))


NONE = Motion(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
UNKNOWN = Motion(*(float("nan"),) * 6)


def measure(before: np.ndarray, after: np.ndarray, seconds: float) -> Motion:
    """Motion between two grey frames uint8 (h, w) that are `seconds` apart."""
    h, w = before.shape
    flow = _flow().calc(before, after, None)
    xs, ys, everywhere = _points(h, w)
    seen = _texture(before)[ys, xs]  # flow in flat areas is a guess
    at = everywhere[seen]
    moved = flow[ys[seen], xs[seen]]  # P, 2
    model = None
    if len(at) >= FEWEST_POINTS:
        model, _ = cv2.estimateAffinePartial2D(
            at, at + moved, method=cv2.RANSAC, ransacReprojThreshold=0.5, maxIters=200, confidence=0.99
        )
    undone, inside = before, None  # None: everywhere
    if model is not None and np.isfinite(model).all() and abs(np.linalg.det(model[:, :2])) > 0.1:
        undone, inside = _undo(before, model)
    # A move that does not bring the frames nearer was not the camera's: an object's motion was fitted.
    if inside is None or not _nearer(before, after, undone, inside):
        model, undone, inside = FIXED, before, None
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
        moving=_changed(after, undone, inside),
        camera_x=float(model[0, 2] * unit),
        camera_y=float(model[1, 2] * unit),
    )


@functools.lru_cache(maxsize=16)
def _points(h: int, w: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and y (P,) of a grid over the frame, and both from its centre (P, 2)."""
    ys, xs = (side.ravel() for side in np.mgrid[GRID // 2 : h : GRID, GRID // 2 : w : GRID])
    return xs, ys, np.stack([xs, ys], 1).astype(np.float32) - (w / 2, h / 2)


FIXED = np.float64([[1, 0, 0], [0, 1, 0]])


def _nearer(before: np.ndarray, after: np.ndarray, undone: np.ndarray, inside: np.ndarray) -> bool:
    """Whether undoing a camera move brings the frames nearer to each other, where both see the same place."""
    return cv2.norm(after, undone, cv2.NORM_L1, inside) < cv2.norm(after, before, cv2.NORM_L1, inside)


def _undo(before: np.ndarray, model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`before` as it would look after the camera's move, and where it is known (255, else 0): both (h, w)."""
    h, w = before.shape
    centre = np.array([w / 2, h / 2])
    matrix = np.concatenate([model[:, :2], (model[:, 2] + centre - model[:, :2] @ centre)[:, None]], 1)
    undone = cv2.warpAffine(before, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full_like(before, 255), matrix, (w, h), borderValue=0)
    return undone, cv2.compare(inside, 255, cv2.CMP_EQ)


def _changed(after: np.ndarray, undone: np.ndarray, inside: np.ndarray | None) -> float:
    """Share of pixels of `after` that the camera's move does not explain, where both frames see the same place."""
    # Against the range of the neighbours: half a pixel of misfit on an edge is no change.
    near = np.ones((3, 3), np.uint8)
    above = cv2.compare(after, cv2.add(cv2.dilate(undone, near), LEVELS), cv2.CMP_GT)
    below = cv2.compare(after, cv2.subtract(cv2.erode(undone, near), LEVELS), cv2.CMP_LT)
    changed = cv2.bitwise_or(above, below, mask=inside)
    return cv2.countNonZero(changed) / (after.size if inside is None else max(1, cv2.countNonZero(inside)))


def _texture(grey: np.ndarray) -> np.ndarray:
    """Where the picture has structure that flow can hold on to: bool (h, w)."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.5)
    edges = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    return edges > 10


_DIS = None


def _flow():
    global _DIS
    if _DIS is None:
        _DIS = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        _DIS.setFinestScale(1)  # the preset's quarter resolution is too coarse for frames this small
        _DIS.setPatchStride(3)
        _DIS.setGradientDescentIterations(25)
        _DIS.setVariationalRefinementIterations(0)
    return _DIS
