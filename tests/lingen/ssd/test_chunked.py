"""The chunked scan against the definition: states, gradients, dtypes and lengths that no chunk divides."""

import pytest
import torch


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("length", "chunk"), [(1, 16), (7, 16), (16, 16), (37, 16), (65, 8), (130, 64)])
def test_chunked_equals_the_definition(scan_inputs, outputs_and_gradients, length, chunk, dtype, reverse):
    leaves, cotangents = scan_inputs(length, dtype)
    got = outputs_and_gradients("torch", leaves, cotangents, chunk=chunk, reverse=reverse)
    expected = outputs_and_gradients("reference", leaves, cotangents, reverse=reverse)
    for name in expected:
        a, b = got[name].double(), expected[name].double()
        limit = 3e-2 if dtype == torch.bfloat16 else 1e-4
        assert (a - b).norm() <= limit * b.norm(), name
    assert got["y"].dtype == dtype
    assert got["final"].dtype == torch.float32


def test_strong_decay_neither_overflows_nor_leaks(scan_inputs, outputs_and_gradients):
    leaves, cotangents = scan_inputs(64)
    leaves["dt"] = (leaves["dt"].detach() + 50).requires_grad_()
    for value in outputs_and_gradients("torch", leaves, cotangents, chunk=32).values():
        assert value.isfinite().all()
