"""SSD by flash-linear-attention's simple gated linear attention (package fla-core).

SSD is that attention with q = C, k = B, v = dt x and the scalar log decay g = dt A per head. Letters as in lingen.ssd.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor

from lingen.ssd.opaque import opaque


def load() -> Callable[..., tuple[Tensor, Tensor]]:
    """Import chunk_simple_gla.

    Raises:
        ImportError: the package is missing, broken or too old.
    """
    try:
        from fla.ops.simple_gla import chunk_simple_gla
    except ModuleNotFoundError as error:
        raise ImportError("not installed" if error.name == "fla" else str(error)) from error
    if "chunk_size" not in inspect.signature(chunk_simple_gla).parameters:
        # 0.4 has no such argument, 0.5 takes any and ignores it.
        raise ImportError("it cannot set the chunk size; 0.6 or newer is needed")
    return chunk_simple_gla


def _kernel(
    v_BLHP: Tensor, q_BLHN: Tensor, k_BLHN: Tensor, g_BLH: Tensor, initial_BHNP: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    return load()(
        q=q_BLHN,
        k=k_BLHN,
        v=v_BLHP,
        g=g_BLH,
        scale=1.0,  # the default is 1 / sqrt(N)
        initial_state=initial_BHNP,
        output_final_state=True,
        chunk_size=chunk,
    )


_op = opaque("ssd_fla", _kernel)


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
    x, dt, B, C = (z.flip(1) for z in tensors) if reverse else tensors
    q, k = (z.unsqueeze(2).expand(-1, -1, x.shape[2], -1).contiguous() for z in (C, B))
    v = x * dt.to(x.dtype)[..., None]
    y, final_BHNP = _op([v, q, k, dt * A_H.float(), initial_BHPN.transpose(-1, -2).contiguous()], chunk)
    return (y.flip(1) if reverse else y), final_BHNP.transpose(-1, -2)
