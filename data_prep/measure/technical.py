"""Technical picture quality from published metrics, without model weights. It is not an aesthetic score.

All metrics are computed at 224 pixels or less on the short side, so that sharp small and sharp large originals compare.

H, W: a picture's sides.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

SHORT_SIDE = 224
"""Pixels of the pictures that are compared."""


@dataclasses.dataclass(frozen=True)
class Technical:
    """Technical quality of one picture."""

    sharpness: float
    """log10 of the Laplacian's variance in the sharpest quarter (Pech-Pacheco 2000)."""
    contrast: float
    """RMS of luminance, 0..1 (Peli 1990)."""
    colourfulness: float
    """Hasler and Suesstrunk 2003: 0 grey, 30 moderate, 80 strong."""
    exposure: float
    """Mean well-exposedness, 0..1 (Mertens 2007)."""
    brightness: float
    """Mean luminance, 0..255."""
    score: float
    """All but brightness as one number, 0..10."""


def technical_quality(rgb: np.ndarray) -> Technical:
    """Score one upright picture, uint8 (H, W, 3)."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    luma = grey.astype(np.float32) / 255
    sharpness, contrast = _sharpness(grey), float(luma.std())
    colourfulness, brightness = _colourfulness(rgb), float(grey.mean())
    exposure = float(np.exp(-((luma - 0.5) ** 2) / (2 * 0.25**2)).mean())
    parts = (
        (_ramp(sharpness, 0.5, 2.8), 0.4),
        (_ramp(contrast, 0.02, 0.20), 0.25),
        (_ramp(exposure, 0.05, 0.55), 0.25),
        (_ramp(colourfulness, 0.0, 40.0), 0.1),
    )
    # A weighted geometric mean: a picture that fails on one metric altogether is not saved by the others.
    score = 10 * float(np.exp(sum(weight * np.log(max(part, 0.05)) for part, weight in parts)))
    return Technical(sharpness, contrast, colourfulness, exposure, brightness, score)


def _sharpness(grey: np.ndarray) -> float:
    """Computed in tiles, so that a sharp subject in front of a soft background counts as sharp."""
    lap = cv2.Laplacian(cv2.GaussianBlur(grey, (3, 3), 0), cv2.CV_32F)
    rows, columns = (np.array_split(np.arange(n), 4) for n in grey.shape)
    tiles = sorted(float(lap[r[0] : r[-1] + 1, c[0] : c[-1] + 1].var()) for r in rows for c in columns)
    return float(np.log10(np.mean(tiles[-4:]) + 1))


def _colourfulness(rgb: np.ndarray) -> float:
    r, g, b = (rgb[..., i].astype(np.float32) for i in range(3))
    rg, yb = r - g, (r + g) / 2 - b
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
