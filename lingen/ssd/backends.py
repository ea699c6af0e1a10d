"""The implementations of the scan, which of them can run here, and which one `auto` means."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from lingen.ssd import fla, mamba_ssm
from lingen.ssd.chunked import ssd_chunked
from lingen.ssd.reference import ssd_reference

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool, int], tuple[Tensor, Tensor]]
"""(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, initial_BHPN, reverse, chunk) -> (y_BLHP, final_BHPN), without the D term."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """One implementation of the scan."""

    name: str
    """What `ssd_backend` calls it."""
    scan: Scan
    """The implementation."""
    chunk: int
    """Tokens per chunk unless the caller sets it."""
    cuda_chunk: int | None = None
    """The same on a GPU, where it differs."""
    package: str | None = None
    """The optional package that it needs."""
    load: Callable[[], object] | None = None
    """Imports what `scan` needs from the package; raises if that is impossible."""


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(name="reference", scan=ssd_reference, chunk=1),
        # Traced at 143,616 tokens on a GPU: 128 moves 216 GB a layer and keeps 17.6 GiB, 64 moves 234 and keeps 22.4.
        Backend(name="torch", scan=ssd_chunked, chunk=64, cuda_chunk=128),
        Backend(name="mamba_ssm", scan=mamba_ssm.scan, chunk=256, package="mamba-ssm", load=mamba_ssm.load),
        Backend(name="fla", scan=fla.scan, chunk=64, package="fla-core", load=fla.load),
    )
}


def check_backend(name: str) -> None:
    """Check that a scan backend, or auto, can be used here.

    Raises:
        ValueError: the backend is unknown, or its package cannot be imported.
    """
    if name == "auto":
        return
    if name not in BACKENDS:
        raise ValueError(f"ssd_backend: {name!r} is unknown; choose one of auto, {', '.join(BACKENDS)}")
    if reason := unavailable(name):
        raise ValueError(f"ssd_backend: {name} cannot be used here ({reason}); install it, or use torch or auto")


@cache
def unavailable(name: str) -> str | None:
    """Why a backend cannot be imported; None if it can."""
    backend = BACKENDS[name]
    if backend.load is None:
        return None
    try:
        backend.load()
    except Exception as error:  # a kernel package can fail to import in any way: built for another torch, no driver
        return f"{backend.package}: {' '.join(str(error).split())[:200]}"
    return None


@torch.compiler.assume_constant_result  # the compiler must not trace into trial imports
def resolve_backend(name: str, device: torch.device) -> str:
    """The backend that a name means on a device: auto is a compiled kernel on CUDA if one imports, otherwise torch.

    Raises:
        ValueError: the backend is unknown, or its package cannot be imported.
    """
    if name != "auto":
        check_backend(name)
        return name
    if device.type == "cuda":
        for candidate in ("mamba_ssm", "fla"):
            if unavailable(candidate) is None:
                return candidate
    return "torch"
