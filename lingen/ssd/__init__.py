"""State-space duality (Mamba-2's scan) as one function with several backends.

`reference` is the definition (sequential, float64), `torch` runs anywhere, `mamba_ssm` and `fla` are GPU kernels of
optional packages.

Letters of shapes in this package: B batch, L sequence, H heads, P head dim, N state size. As names of tensors, A, B, C
and D are the parameters of the state-space model; all heads share B and C (ngroups = 1).
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
