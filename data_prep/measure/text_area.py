"""How much of a picture is covered by text: subtitles, titles, logos, screens full of code. No model weights needed.

Lettering is thin strokes of one level on a quieter ground, set in lines: strokes stand out from their surroundings
(top-hat), fill boxes wider than high, cross a row many times, and share one level. Foliage and gravel pass some of
these tests, not all. Overlays and screens are found; handwriting, distant signs and lettering with a heavy outline on a
bright busy ground mostly are not.

H, W: a picture's sides; h, w: a box's.
"""

from __future__ import annotations

import cv2
import numpy as np

SHORT_SIDE = 360
"""Pixels; with fewer, small lettering is lost, and more cost more time."""
STROKE_LEVELS = 60
"""How much brighter or darker (of 255) a stroke is than its surroundings."""
GROUND_SPREAD = 28.0
"""Largest standard deviation of the ground next to the strokes."""
MOST_BOXES = 150
"""Boxes that are examined, largest first."""


def text_area(grey: np.ndarray) -> float:
    """Share of a picture that boxes of lettering cover.

    Args:
        grey: uint8 (H, W), SHORT_SIDE or less on the short side.
    Returns:
        0 to 1.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (9, 5))
    covered = np.zeros(grey.shape, bool)
    for operation in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):  # light on dark, dark on light
        strokes = (cv2.morphologyEx(grey, operation, kernel) > STROKE_LEVELS).astype(np.uint8)
        lines = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, 9), np.uint8))
        # OpenCV's default algorithm takes three times as long for the same boxes.
        _, _, boxes, _ = cv2.connectedComponentsWithStatsWithAlgorithm(lines, 8, cv2.CV_32S, cv2.CCL_GRANA)
        x, y, w, h, area = boxes[1:].T
        shaped = (w >= 2.5 * h) & (h >= 5) & (h <= 0.15 * grey.shape[0]) & (w >= 12) & (area > 0.2 * w * h)
        found = boxes[1:][shaped]
        for x, y, w, h, _ in found[np.argsort(-found[:, 4])][:MOST_BOXES]:
            here = slice(y, y + h), slice(x, x + w)
            if _is_lettering(grey[here], strokes[here]):
                covered[here] = True
    return float(covered.mean())


def _is_lettering(grey: np.ndarray, strokes: np.ndarray) -> bool:
    """Whether a box, uint8 (h, w), holds lettering."""
    h, w = strokes.shape
    if not 0.2 < strokes.mean() < 0.75:
        return False
    middle = strokes[h // 4 : max(h // 4 + 1, 3 * h // 4)].astype(np.int8)
    if np.abs(np.diff(middle, axis=1)).sum(1).mean() * h / w < 0.6:  # crossings per letter height
        return False
    ink = grey[strokes > 0].astype(np.float32)
    near = cv2.dilate(strokes, np.ones((3, 3), np.uint8))
    around = cv2.dilate(near, np.ones((3, 3), np.uint8)) > near  # a ring: outlined lettering may be on any ground
    ground = grey[around].astype(np.float32)
    if len(ink) < 20 or len(ground) < 8 or ground.std() > GROUND_SPREAD:
        return False
    light = np.median(ink) > np.median(ground)
    core = np.abs(ink - np.percentile(ink, 90 if light else 10)) < STROKE_LEVELS
    return abs(float(np.median(ink) - np.median(ground))) > 70 and core.mean() > 0.5
