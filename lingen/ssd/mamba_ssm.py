"""SSD by mamba_ssm's Triton kernels (package mamba-ssm). Letters as in lingen.ssd."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable

from torch import Tensor

from lingen.ssd.headroom import INT32_LIMIT
from lingen.ssd.opaque import opaque


def load() -> Callable[..., tuple[Tensor, Tensor]]:
    """Import mamba_chunk_scan_combined, even from a build without the CUDA extensions.

    Raises:
        ImportError: the package is missing or broken.
    """
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError:
        # mamba_ssm/__init__.py imports selective_scan_cuda, which an interpreter-only or Triton-only build lacks. The
        # SSD kernels do not need it, so an empty package replaces that __init__.
        spec = importlib.machinery.PathFinder.find_spec("mamba_ssm")
        if spec is None:
            raise ImportError("not installed") from None
        package = types.ModuleType("mamba_ssm")
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules["mamba_ssm"] = package
        try:
            from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
        except ImportError:
            del sys.modules["mamba_ssm"]
            raise
    return mamba_chunk_scan_combined


def _kernel(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BL1N: Tensor,
    C_BL1N: Tensor,
    initial_BHPN: Tensor,
    *,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    return load()(x_BLHP, dt_BLH, A_H, B_BL1N, C_BL1N, chunk, initial_states=initial_BHPN, return_final_states=True)


_op = opaque("ssd_mamba_ssm", _kernel)


def scan(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    initial_BHPN: Tensor,
    reverse: bool,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """`lingen.ssd.ssd` without the D term; chunk must be a power of two."""
    tensors = [x_BLHP, dt_BLH.float(), B_BLN, C_BLN]
    if reverse:
        tensors = [z.flip(1) for z in tensors]
    # Offsets are 32-bit and follow the strides: a slice of a wide fused projection overflows long before its copy does.
    x, dt, B, C = (z if _extent(z) <= INT32_LIMIT else z.contiguous() for z in tensors)
    assert max(map(_extent, (x, dt, B, C))) <= INT32_LIMIT
    y, final = _op([x, dt, A_H.float(), B.unsqueeze(2), C.unsqueeze(2), initial_BHPN], chunk)
    return (y.flip(1) if reverse else y), final


def _extent(z: Tensor) -> int:
    """The largest offset into z's storage, from its first element."""
    return sum((n - 1) * stride for n, stride in zip(z.shape, z.stride()))
