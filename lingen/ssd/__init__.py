"""State-space duality (Mamba-2's scan) behind one function, whatever computes it.

Letters: B batch, L sequence, H heads, P head dim, N state size. B and C are shared by all heads (ngroups = 1).
"""

from __future__ import annotations

from torch import Tensor

from lingen.ssd.chunked import ssd_chunked
from lingen.ssd.reference import ssd_reference

BACKENDS = ("auto", "torch", "reference")


def check_backend(name: str) -> None:
    """Raises ValueError for an unknown backend or one whose package is missing."""
    if name not in BACKENDS:
        raise ValueError(f"ssd_backend: {name!r} is unknown; choose one of {', '.join(BACKENDS)}")


def ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_H: Tensor | None = None,
    initial_BHPN: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """h_l = exp(dt_l A) h_{l-1} + dt_l x_l B_l^T,  y_l = h_l C_l + D x_l.  `reverse` runs from the last token back.

    Args: dt positive (after softplus); A negative; initial_BHPN the state before the first token that is read.
    Returns: y (B, L, H, P) in x's dtype; the final state (B, H, P, N) in float32. Both carry gradients.
    """
    check_backend(backend)
    if initial_BHPN is None:
        batch, _, H, P = x_BLHP.shape
        initial_BHPN = x_BLHP.new_zeros(batch, H, P, B_BLN.shape[-1])
    if backend == "reference":
        y, final = ssd_reference(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, initial_BHPN, reverse)
    else:
        y, final = ssd_chunked(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, initial_BHPN, reverse, chunk)
    if D_H is not None:
        y = y + x_BLHP * D_H.to(x_BLHP.dtype)[:, None]
    return y, final
