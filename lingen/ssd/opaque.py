"""A third-party kernel as one opaque PyTorch operator: torch.compile neither traces into it nor breaks the graph.

torch.compile over mamba_ssm's autograd function gave NaNs (pytorch/pytorch#146129). The operator's backward pass runs
the kernel's own autograd function once more from the saved inputs, so this does not depend on the kernel's internals.
Where nothing is compiled the kernel is called as it is, without that second forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def opaque(name: str, kernel: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Register a kernel as the differentiable operator lingen::<name>.

    Args:
        name: of the operator.
        kernel: kernel(values, ..., initial, chunk=) -> (y shaped like values, final shaped like initial). It must pass
            its tensors to an autograd.Function unchanged: inside an operator PyTorch records no other operation.

    Returns:
        ([values, ..., initial], chunk) -> (y, final): the operator while something is compiled, else the kernel.
    """

    @torch.library.custom_op(f"lingen::{name}", mutates_args=())
    def forward(tensors: Sequence[Tensor], chunk: int) -> tuple[Tensor, Tensor]:
        y, final = kernel(*tensors, chunk=chunk)
        return y.contiguous(), final.float().contiguous()

    @forward.register_fake
    def _(tensors: Sequence[Tensor], chunk: int) -> tuple[Tensor, Tensor]:
        return _like(tensors[0]), _like(tensors[-1])

    @torch.library.custom_op(f"lingen::{name}_backward", mutates_args=())
    def backward(dy: Tensor, dfinal: Tensor, tensors: Sequence[Tensor], chunk: int) -> list[Tensor]:
        inputs = [z.detach().requires_grad_() for z in tensors]
        with torch.enable_grad():
            outputs = kernel(*inputs, chunk=chunk)
        gradients = torch.autograd.grad(outputs, inputs, (dy, dfinal.to(outputs[1].dtype)))
        return [g.to(z.dtype).contiguous() for g, z in zip(gradients, inputs)]

    @backward.register_fake
    def _(dy: Tensor, dfinal: Tensor, tensors: Sequence[Tensor], chunk: int) -> list[Tensor]:
        return [_like(z) for z in tensors]

    def setup(ctx: Any, inputs: tuple[Sequence[Tensor], int], output: tuple[Tensor, Tensor]) -> None:
        tensors, ctx.chunk = inputs
        ctx.save_for_backward(*tensors)

    def gradient(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[list[Tensor], None]:
        return backward(dy.contiguous(), dfinal.contiguous(), list(ctx.saved_tensors), ctx.chunk), None

    forward.register_autograd(gradient, setup_context=setup)

    def call(tensors: Sequence[Tensor], chunk: int) -> tuple[Tensor, Tensor]:
        # Tensors without data (a trace, a test of the operator) have no kernel.
        if torch.compiler.is_compiling() or isinstance(tensors[0], FakeTensor):
            return forward(tensors, chunk)
        y, final = kernel(*tensors, chunk=chunk)
        return y.contiguous(), final.float().contiguous()

    return call


def _like(z: Tensor) -> Tensor:
    return torch.empty_like(z, memory_format=torch.contiguous_format)
