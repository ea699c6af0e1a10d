"""What is a rank's own: its device, its shard of a tensor, and a process group for CPU tensors."""

from __future__ import annotations

import datetime

import torch
import torch.distributed as dist
from torch import Tensor


def own_device() -> torch.device:
    """The current CUDA device, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def cpu_group(timeout_s: float | None) -> dist.ProcessGroup:
    """A new gloo group of all ranks; called by every rank.

    Args:
        timeout_s: how long its collectives wait for the slowest rank; None is torch's default.
    """
    timeout = None if timeout_s is None else datetime.timedelta(seconds=timeout_s)
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)  # every rank is a member
    return group


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor; a plain tensor unchanged."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A DTensor gathered from all ranks, a collective; a plain tensor unchanged."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
