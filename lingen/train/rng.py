"""The process-wide random generators as tensors, for checkpoints.

Nothing in training draws from them: sample order, noise and times have seeded generators (lingen.data.batch_plan,
lingen.train.flow). They are saved all the same, so that code which does draw continues where it stopped.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from torch import Tensor


def rng_state() -> dict[str, Tensor]:
    """States of torch's (CPU, and CUDA's current device), Python's and NumPy's global generators."""
    _, words, gauss = random.getstate()
    _, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert isinstance(key, np.ndarray)
    state = {
        "torch": torch.get_rng_state(),
        # 32-bit words are exact in float64; nan stands for "no second Gaussian cached".
        "python": torch.tensor([*words, math.nan if gauss is None else gauss], dtype=torch.float64),
        "numpy": torch.tensor([*key.tolist(), position, has_gauss, cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Restore what `rng_state` returned."""
    *words, gauss = state["python"].tolist()
    random.setstate((3, tuple(int(w) for w in words), None if math.isnan(gauss) else gauss))
    *key, position, has_gauss, cached = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), int(position), int(has_gauss), cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu())
