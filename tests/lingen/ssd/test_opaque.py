"""An opaque operator: PyTorch's own checks of it, its gradients, one graph when compiled, no forward too many."""

import torch
from torch.utils.checkpoint import checkpoint

from lingen.ssd.opaque import opaque


class Kernel(torch.autograd.Function):
    """y = value * weight, final = chunk * initial; the product's gradients are written by hand, as a kernel's are."""

    forwards = 0

    @staticmethod
    def forward(ctx, value, weight, initial, chunk):
        ctx.save_for_backward(value, weight)
        ctx.chunk = chunk
        Kernel.forwards += 1
        return value * weight, chunk * initial

    @staticmethod
    def backward(ctx, dy, dfinal):
        value, weight = ctx.saved_tensors
        return dy * weight, dy * value, ctx.chunk * dfinal, None


OPERATOR = opaque("test_kernel", lambda value, weight, initial, *, chunk: Kernel.apply(value, weight, initial, chunk))


def loss(value, weight, initial):
    y, final = OPERATOR([value, weight, initial], 3)
    return y.square().sum() + final.sum()


def test_pytorch_accepts_the_operator():
    tensors = [torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True), torch.randn(2)]
    torch.library.opcheck(torch.ops.lingen.test_kernel.default, (tensors, 3))


def test_gradients_are_the_kernels_in_eager_mode_and_compiled():
    leaves = [torch.randn(4, 5, requires_grad=True) for _ in range(3)]
    value, weight, _ = leaves
    expected = [2 * value * weight**2, 2 * value**2 * weight, torch.full((4, 5), 3.0)]
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        for got, want in zip(torch.autograd.grad(function(*leaves), leaves), expected):
            torch.testing.assert_close(got, want)


def test_eager_mode_runs_the_kernel_forward_once_and_once_more_to_recompute():
    leaves = [torch.randn(4, 5, requires_grad=True) for _ in range(3)]
    for function, forwards in ((loss, 1), (lambda *a: checkpoint(loss, *a, use_reentrant=False), 2)):
        Kernel.forwards = 0
        torch.autograd.grad(function(*leaves), leaves)
        assert Kernel.forwards == forwards
