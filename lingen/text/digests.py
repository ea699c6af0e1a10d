"""What identifies a text encoder: its weights, and the settings that the weights do not show."""

from __future__ import annotations

import hashlib
import json

import torch


def weights_digest(model: torch.nn.Module, config: dict) -> str:
    """16 hex digits over every weight, and over the settings that the weights do not show (activation, context)."""
    h = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        h.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        h.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return h.hexdigest()[:16]
