"""State-space duality (Mamba-2's scan) behind one function, whatever computes it.

`reference` is the definition (sequential, float64), `torch` runs anywhere, `mamba_ssm` and `fla` are GPU kernels of
optional packages. Letters: B batch, L sequence, H heads, P head dim, N state size. B and C are shared by all heads
(ngroups = 1).
"""

from lingen.ssd.backends import BACKENDS, check_backend, resolve_backend
from lingen.ssd.headroom import int32_headroom, max_tokens
from lingen.ssd.scan import ssd
from lingen.ssd.self_test import SelfTest, self_test

__all__ = [
    "BACKENDS",
    "SelfTest",
    "check_backend",
    "int32_headroom",
    "max_tokens",
    "resolve_backend",
    "self_test",
    "ssd",
]
