"""High dynamic range video as ordinary BT.709 pictures: what a person would see on a normal screen.

Without it PQ and HLG frames decode to grey, washed-out pictures, and every score and latent made of them is wrong.
Sources: SMPTE ST 2084 (PQ), ITU-R BT.2100 (HLG), BT.2087 (2020 to 709 primaries); shoulder: extended Reinhard on the
largest channel, with diffuse white at 203 cd/m2 (BT.2408).

H, W: a picture's sides.
"""

from __future__ import annotations

import numpy as np

DIFFUSE_WHITE_NITS = 203.0
PEAK_NITS = 1000.0
BT2020_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def pq_to_nits(signal: np.ndarray) -> np.ndarray:
    """Convert an ST 2084 signal in 0..1 to cd/m2 in 0..10000."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    p = np.power(np.clip(signal, 0, 1), 1 / m2)
    return 10000 * np.power(np.maximum(p - c1, 0) / (c2 - c3 * p), 1 / m1)


def hlg_to_nits(signal: np.ndarray) -> np.ndarray:
    """Convert a BT.2100 HLG signal (..., 3) in 0..1 to cd/m2 on a 1000 cd/m2 display (system gamma 1.2)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    x = np.clip(signal, 0, 1)
    scene = np.where(x <= 0.5, x * x / 3, (np.exp((x - c) / a) + b) / 12)
    luma = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return PEAK_NITS * scene * np.power(np.maximum(luma, 1e-6), 0.2)[..., None]


def to_sdr(rgb16: np.ndarray, transfer: str) -> np.ndarray:
    """Convert uint16 RGB (H, W, 3) of transfer "pq" or "hlg" and BT.2020 primaries to uint8 BT.709 (H, W, 3)."""
    signal = rgb16.astype(np.float32) / 65535
    light = (pq_to_nits(signal) if transfer == "pq" else hlg_to_nits(signal)) / DIFFUSE_WHITE_NITS
    light = np.maximum(light @ BT2020_TO_709.T, 0)
    top = np.maximum(light.max(-1, keepdims=True), 1e-6)
    white = PEAK_NITS / DIFFUSE_WHITE_NITS
    light *= (1 + top / white**2) / (1 + top)
    light = np.clip(light, 0, 1)
    encoded = np.where(light < 0.018, 4.5 * light, 1.099 * np.power(np.maximum(light, 1e-6), 0.45) - 0.099)
    return (encoded * 255 + 0.5).astype(np.uint8)
