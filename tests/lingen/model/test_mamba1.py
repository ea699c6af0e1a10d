"""Mamba-1's selective scan against its definition, gradients included."""

import pytest
import torch

from lingen.model.mamba1 import CHUNK, selective_scan


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 9, CHUNK + 6])
def test_selective_scan_is_its_definition(length, reverse):
    torch.manual_seed(0)
    x, dt = torch.randn(2, length, 3), torch.rand(2, length, 3)
    A, (B, C) = -torch.rand(3, 4), torch.randn(2, 2, length, 4)
    leaves = [z.requires_grad_() for z in (x, dt, A, B, C)]
    y, final = selective_scan(*leaves, reverse=reverse)
    state, ys = torch.zeros(2, 3, 4), [None] * length
    for i in reversed(range(length)) if reverse else range(length):
        state = (dt[:, i, :, None] * A).exp() * state + (dt[:, i] * x[:, i])[..., None] * B[:, i, None]
        ys[i] = (state * C[:, i, None]).sum(-1)
    expected = torch.stack(ys, 1)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(final, state, atol=1e-5, rtol=1e-4)
    weight = torch.randn_like(y)
    for got, want in zip(
        torch.autograd.grad((y * weight).sum(), leaves), torch.autograd.grad((expected * weight).sum(), leaves)
    ):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)
