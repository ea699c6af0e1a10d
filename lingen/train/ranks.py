"""What is a rank's own: its device, its shard of a tensor, and a process group for CPU tensors."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

Param = TypeVar("Param", bound=Tensor)


class Rows(Protocol):
    """A tensor, or one in a file of which only some rows are read."""

    def __getitem__(self, rows: slice, /) -> Tensor: ...


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


def unsharded(tensors: Iterable[Param]) -> list[Param]:
    """Those that are no DTensors: every rank has them whole."""
    return [tensor for tensor in tensors if not isinstance(tensor, DTensor)]


def whole(tensor: Tensor) -> Tensor:
    """A DTensor gathered from all ranks, a collective; a plain tensor unchanged."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def copy_own_rows(target: Tensor, source: Rows) -> None:
    """Copy into a DTensor that is sharded along its first axis the rows of `source` that this rank holds.

    Of a source in a file no other rows are read. A plain tensor gets all rows.
    """
    length = len(target)
    rows = slice(0, length)
    if isinstance(target, DTensor):
        (axis,) = (i for i, placement in enumerate(target.placements) if placement.is_shard(0))
        share = -(-length // target.device_mesh.size(axis))
        first = min(target.device_mesh.get_local_rank(axis) * share, length)
        rows = slice(first, min(first + share, length))
    if rows.start < rows.stop:
        local(target).copy_(source[rows])
