"""Run by check_in_interpreter in a fresh process: a GPU backend against the reference in Triton's CPU interpreter.

Usage: python triton_interpreter.py BACKEND. Exit code 77: the package is not installed.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"
os.environ["MAMBA_DETERMINISTIC"] = "1"  # no atomics across program instances

import contextlib
import types

import torch


def stand_in_for_a_gpu() -> None:
    """The kernels' Python wrappers ask for the current CUDA device; the interpreter computes on CPU tensors."""
    torch.cuda.device = lambda index: contextlib.nullcontext()
    torch.cuda.get_device_properties = lambda *a: types.SimpleNamespace(
        multi_processor_count=1, name="interpreter", major=9, minor=0, total_memory=1 << 34
    )
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda *a: (9, 0)
    from triton.runtime.autotuner import Autotuner

    Autotuner.do_bench = lambda self, call, quantiles: [1.0 for _ in quantiles]  # nothing to time: any config will do


def main(name: str) -> None:
    stand_in_for_a_gpu()
    from lingen.ssd import backends

    if reason := backends.unavailable(name):
        print(reason)
        sys.exit(77)
    if name == "fla":
        # Its chunked kernel does not run in the interpreter. The recurrent one takes the same arguments: this checks
        # the mapping (scale, layout of states, expansion of B and C), not the chunked kernel itself.
        from fla.ops.simple_gla import fused_recurrent_simple_gla

        from lingen.ssd import fla

        fla.load = lambda: lambda chunk_size, **kw: fused_recurrent_simple_gla(**kw)
    from lingen.ssd import self_test, ssd

    for length in (37, 16, 1):
        print(self_test(length=length, heads=2, head_dim=16, state=16, batch=2, backend=name, chunk=16, splits=2))
    x, dt = torch.randn(1, 40, 4, 16), torch.rand(1, 40, 4)
    A, (B, C) = -torch.rand(4), torch.randn(2, 1, 40, 16)
    wide = torch.randn(1, 40, 200)  # views into a fused projection, as the model passes them
    wide[..., 8:72] = x.flatten(2)
    view = wide[..., 8:72].unflatten(-1, (4, 16))
    D = torch.randn(4)
    torch.testing.assert_close(
        ssd(view, dt, A, B, C, D, backend=name, chunk=16)[0],
        ssd(x, dt, A, B, C, D, backend="reference")[0],
        atol=1e-4,
        rtol=1e-4,
    )

    def loss(x):
        y, final = ssd(x, dt, A, B, C, D, backend=name, chunk=16)
        return y.square().sum() + final.sum()

    eager, compiled = (z.clone().requires_grad_() for z in (x, x))
    loss(eager).backward()
    torch.compile(loss, backend="aot_eager", fullgraph=True)(compiled).backward()
    torch.testing.assert_close(compiled.grad, eager.grad)
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
