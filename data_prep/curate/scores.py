"""From a file's measurements to a span's scores, which thresholds are applied to.

S: stills of a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

VIDEO_SCORES = (
    "motion",
    "camera_motion",
    "object_motion",
    "moving_area",
    "scene_motion",
    "jitter",
    "black",
    "frozen",
    "bars",
)
STILL_SCORES = ("technical", "sharpness", "contrast", "colourfulness", "exposure", "brightness", "text_area")
SCORES = ("seconds", "short_side", "damaged", *VIDEO_SCORES, *STILL_SCORES, "aesthetic")
BLACK_LEVEL = 24.0
FROZEN_CHANGE = 0.05


def span_scores(row: dict, start_s: float, end_s: float, aesthetic: Sequence[float] = ()) -> dict[str, float]:
    """Compute all of SCORES for one span of a file; NaN where a score has no meaning.

    motion, camera_motion, object_motion: mean %/s of the diagonal. moving_area: share 0..1. scene_motion: the geometric
    mean of object_motion and of moving_area in percent: both flow and pixels must show that something moves by itself.
    jitter: median change of the camera's speed between samples, %/s. black, frozen: shares of samples. bars:
    share of the picture under black bars.

    Args:
        row: the file's measurements, a row of examine.SCHEMA.
        start_s: start of the span.
        end_s: its end; 0 for an image.
        aesthetic: the aesthetic score of each of the S stills, or none.
    """
    out = dict.fromkeys(SCORES, math.nan)
    out["short_side"] = float(min(row["width"], row["height"]))
    out["damaged"] = row["damaged"]
    at = stills_inside(row["still_s"], start_s, end_s)
    out |= {name: float(np.asarray(row[name])[at].mean()) for name in STILL_SCORES}
    if len(aesthetic):
        out["aesthetic"] = float(np.asarray(aesthetic)[at].mean())
    if row["media_type"] == "image":
        return out
    out["seconds"] = end_s - start_s
    top, bottom, left, right = row["bars"]
    out["bars"] = 1 - (1 - top - bottom) * (1 - left - right)
    times = np.asarray(row["sample_s"])
    inside = (times >= start_s - 1e-6) & (times < end_s - 1e-6)
    if not inside.any():
        return out
    luma, spread = (np.asarray(row[name])[inside] for name in ("sample_luma", "sample_spread"))
    out["black"] = float((luma + spread / 2 < BLACK_LEVEL).mean())
    pairs = inside & np.concatenate([[False], inside[:-1]])  # measured against a sample of the same span
    if not pairs.any():
        return out
    out["frozen"] = float((np.asarray(row["sample_diff"])[pairs] < FROZEN_CHANGE).mean())
    flows = pairs & np.isfinite(np.asarray(row["motion"], np.float64))  # between every second pair
    if not flows.any():
        return out
    for name in ("motion", "camera_motion", "object_motion", "moving_area"):
        out[name] = float(np.asarray(row[name])[flows].mean())
    out["scene_motion"] = math.sqrt(out["object_motion"] * out["moving_area"] * 100)
    speed = np.stack([np.asarray(row["camera_x"])[flows], np.asarray(row["camera_y"])[flows]], 1)
    out["jitter"] = float(np.median(np.hypot(*np.diff(speed, axis=0).T))) if len(speed) > 1 else 0.0
    return out


def stills_inside(still_s: Sequence[float], start_s: float, end_s: float) -> list[int]:
    """Indices of the stills in a span; for a span without any, the nearest one."""
    times = np.asarray(still_s)
    if end_s <= start_s:
        return list(range(len(times)))
    inside = np.flatnonzero((times >= start_s - 1e-6) & (times < end_s - 1e-6))
    return inside.tolist() if len(inside) else [int(np.abs(times - (start_s + end_s) / 2).argmin())]
