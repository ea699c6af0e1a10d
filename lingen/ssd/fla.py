"""SSD by flash-linear-attention's simple gated linear attention (package fla-core).

SSD is that attention with q = C, k = B, v = dt x and the scalar log decay dt A per head.
"""

from __future__ import annotations

from torch import Tensor

from lingen.ssd.opaque import opaque


def load():
    try:
        from fla.ops.simple_gla import chunk_simple_gla
    except ModuleNotFoundError as error:
        raise ImportError("not installed" if error.name == "fla" else str(error)) from error
    return chunk_simple_gla


def _kernel(v, q, k, g, initial, *, chunk) -> tuple[Tensor, Tensor]:
    return load()(
        q=q,
        k=k,
        v=v,
        g=g,
        scale=1.0,  # its default is 1 / sqrt(N)
        initial_state=initial,
        output_final_state=True,
        chunk_size=chunk,
    )


_op = opaque("ssd_fla", _kernel)


def scan(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, initial_BHPN, reverse: bool, chunk: int) -> tuple[Tensor, Tensor]:
    """As `lingen.ssd.ssd`, without the D term; chunk must be a power of two."""
    tensors = [x_BLHP, dt_BLH.float(), B_BLN, C_BLN]
    x, dt, B, C = (z.flip(1) for z in tensors) if reverse else tensors
    q, k = (z.unsqueeze(2).expand(-1, -1, x.shape[2], -1).contiguous() for z in (C, B))
    v = x * dt.to(x.dtype)[..., None]
    y, final_BHNP = _op([v, q, k, dt * A_H.float(), initial_BHPN.transpose(-1, -2).contiguous()], chunk)
    return (y.flip(1) if reverse else y), final_BHNP.transpose(-1, -2)
