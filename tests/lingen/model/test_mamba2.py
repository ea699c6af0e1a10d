"""Mamba-2's convolution against a plain one, and the error for an impossible head dim."""

import pytest
import torch
import torch.nn.functional as F

from lingen.model.mamba2 import BidirectionalMamba2, causal_conv


@pytest.mark.parametrize("reverse", [False, True])
def test_causal_conv_is_a_plain_conv1d(reverse):
    x, conv = torch.randn(2, 11, 6), torch.nn.Conv1d(6, 6, 4, groups=6)
    y = causal_conv(x, conv, reverse)
    z = x.flip(1) if reverse else x
    expected = F.conv1d(F.pad(z.transpose(1, 2), (3, 0)), conv.weight, conv.bias, groups=6).transpose(1, 2)
    torch.testing.assert_close(y, expected.flip(1) if reverse else expected)


def test_an_impossible_head_dim_is_refused():
    with pytest.raises(ValueError, match="ssm_head_dim: 24 does not divide the inner width 64"):
        BidirectionalMamba2(64, head_dim=24)


def test_recomputing_the_scan_keeps_far_less_and_changes_no_bit():
    """At 143,616 tokens of the 4B model what is inside both scans is 28 GiB of the 80 that a step takes."""
    u = torch.randn(1, 200, 32)

    def run(recompute):
        torch.manual_seed(0)
        mamba = BidirectionalMamba2(32, state=16, head_dim=8, backend="torch")
        mamba.recompute = recompute
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda z: kept.update({z.untyped_storage().data_ptr(): z.untyped_storage().nbytes()}) or z, lambda z: z
        ):
            y = mamba(u)
        y.square().sum().backward()
        return sum(kept.values()), [y.detach(), *(p.grad for p in mamba.parameters())]

    (all_kept, expected), (kept, found) = run(False), run(True)
    assert kept < all_kept / 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
