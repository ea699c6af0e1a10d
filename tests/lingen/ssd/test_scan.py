"""The scan as one function: reversal, and inputs that are too long for one kernel call."""

import dataclasses

import pytest
import torch

from lingen.ssd import BACKENDS, headroom, ssd


def test_reversed_is_flipped(scan_inputs):
    leaves, _ = scan_inputs(41)
    x, dt, A, B, C, D, initial = leaves.values()
    y, final = ssd(*leaves.values(), reverse=True, chunk=8)
    z, last = ssd(*(v.flip(1) for v in (x, dt)), A, *(v.flip(1) for v in (B, C)), D, initial, chunk=8)
    torch.testing.assert_close(y, z.flip(1))
    torch.testing.assert_close(final, last)


@pytest.mark.parametrize("reverse", [False, True])
def test_an_input_too_long_for_32_bit_offsets_goes_through_in_parts(
    scan_inputs, outputs_and_gradients, monkeypatch, reverse
):
    """A backend with the limit of 32-bit kernels, here lowered to 1,000 elements, gives the result of one call."""
    calls = []

    def scan(x, *args):
        calls.append(x.numel())
        return BACKENDS["torch"].scan(x, *args)

    monkeypatch.setitem(BACKENDS, "narrow", dataclasses.replace(BACKENDS["torch"], name="narrow", scan=scan, chunk=4))
    monkeypatch.setattr(headroom, "INT32_BACKENDS", frozenset({"narrow"}))
    monkeypatch.setattr(headroom, "INT32_LIMIT", 1000)
    leaves, cotangents = scan_inputs(131)
    got = outputs_and_gradients("narrow", leaves, cotangents, reverse=reverse)
    assert len(calls) > 5
    assert max(calls) <= 1000
    for name, value in outputs_and_gradients("torch", leaves, cotangents, reverse=reverse).items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_a_backend_has_its_own_chunk_on_a_gpu(scan_inputs, monkeypatch):
    """PyTorch's scan moves fewer bytes there in chunks of 128; on a CPU numbers stay what they were with 64."""
    chunks = []

    def scan(*arguments):
        chunks.append(arguments[-1])
        return BACKENDS["torch"].scan(*arguments)

    monkeypatch.setitem(BACKENDS, "noted", dataclasses.replace(BACKENDS["torch"], name="noted", scan=scan))
    x, dt, A, B, C, *_ = scan_inputs(20)[0].values()

    class OnGpu(torch.Tensor):
        is_cuda = True

    ssd(x, dt, A, B, C, backend="noted")
    ssd(x.detach().as_subclass(OnGpu), dt, A, B, C, backend="noted")
    ssd(x, dt, A, B, C, backend="noted", chunk=32)
    assert chunks == [64, 128, 32]
