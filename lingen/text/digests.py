"""The digest that identifies a text encoder."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch


def weights_digest(model: torch.nn.Module, config: dict[str, Any]) -> str:
    """16 hex digits over all weights, and over settings that do not appear in them (activation, context length)."""
    h = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        h.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        h.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return h.hexdigest()[:16]
