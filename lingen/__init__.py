"""The LinGen model and everything that runs without Ray and MLflow (needs torch, numpy and safetensors).

model = lingen.load("runs/t2v_256p_17s")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lingen.model.denoiser import Denoiser


def load(path: str | Path, weights: str = "ema", device: str = "cpu") -> Denoiser:
    """Load the denoiser of a finished stage or of its model folder; see lingen.model.pretrained.load_denoiser."""
    from lingen.model.pretrained import load_denoiser

    return load_denoiser(path, weights, device)
