"""AdamW, with weight decay on matrices alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lingen.train.config import FitConfig


def build_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; the loop sets the learning rate at every step (lingen.train.lr_schedule)."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=True)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors, position tables and modulation tables without."""
    decayed = [p for n, p in model.named_parameters() if p.ndim >= 2 and "positions" not in n and "modulation" not in n]
    chosen = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
