"""The mamba_ssm backend: what its kernel receives, and the kernels in Triton's CPU interpreter."""

import pytest
import torch

from lingen.ssd import mamba_ssm
from lingen.ssd.reference import ssd_reference


def plain_kernel(received):
    """mamba_chunk_scan_combined by the definition; keeps the tensors that it receives."""

    def kernel(x, dt, A, B_BL1N, C_BL1N, chunk, initial_states, return_final_states):
        received[:] = [x, dt, B_BL1N, C_BL1N]
        return ssd_reference(x, dt, A, B_BL1N[:, :, 0], C_BL1N[:, :, 0], initial_states, False)

    return kernel


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_the_definition(scan_inputs, monkeypatch, reverse):
    monkeypatch.setattr(mamba_ssm, "load", lambda: plain_kernel([]))
    x, dt, A, B, C, _, initial = (z.detach() for z in scan_inputs(21)[0].values())
    y, final = mamba_ssm.scan(x, dt, A, B, C, initial, reverse, 16)
    expected_y, expected_final = ssd_reference(x, dt, A, B, C, initial, reverse)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(final, expected_final)


def test_a_view_beyond_32_bit_offsets_is_copied(monkeypatch):
    """A slice of a wide projection spans more of its storage than it has elements."""
    received = []
    monkeypatch.setattr(mamba_ssm, "load", lambda: plain_kernel(received))
    monkeypatch.setattr(mamba_ssm, "INT32_LIMIT", 1000)
    wide = torch.randn(1, 20, 100)
    x, B, C = wide[..., :16].unflatten(-1, (2, 8)), wide[..., 16:20], torch.randn(1, 20, 4)
    mamba_ssm.scan(x, torch.rand(1, 20, 2), -torch.ones(2), B, C, torch.zeros(1, 2, 8, 4), False, 16)
    assert all(z.is_contiguous() for z in received)
    assert received[3].data_ptr() == C.data_ptr(), "a tensor within the limit is not copied"
    torch.testing.assert_close(received[0], x, rtol=0, atol=0)


@pytest.mark.slow
def test_kernels_in_the_interpreter(check_in_interpreter):
    check_in_interpreter("mamba_ssm")
