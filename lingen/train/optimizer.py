"""AdamW, with weight decay on matrices alone, and the clipping of its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lingen.train.config import FitConfig
from lingen.train.ranks import unsharded, whole


def build_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; the loop sets the learning rate at every step (lingen.train.lr_schedule)."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=True)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors, position tables and modulation tables without; the unsharded apart."""
    decayed = [p for n, p in model.named_parameters() if p.ndim >= 2 and "positions" not in n and "modulation" not in n]
    chosen = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if (whole := unsharded(rest)) and len(whole) < len(rest):  # one operator cannot update both kinds
        groups[1]["params"] = [p for p in rest if isinstance(p, DTensor)]
        groups.append({"params": whole, "weight_decay": 0.0})
    return groups


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients down to a norm of at most `limit`. Returns the norm before, over all ranks."""
    parameters = list(model.parameters())
    plain = unsharded(parameters)
    if not plain or len(plain) == len(parameters):
        return whole(nn.utils.clip_grad_norm_(parameters, limit))
    sharded = [p for p in parameters if isinstance(p, DTensor)]
    norm = torch.hypot(*(whole(nn.utils.get_total_norm(_gradients(kind))) for kind in (sharded, plain)))
    for kind in (sharded, plain):
        nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
