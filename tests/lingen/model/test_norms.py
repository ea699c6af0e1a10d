"""RMSNorm against its formula and under autocast; modulation."""

import torch

from lingen.model.norms import RMSNorm, modulate


def test_it_is_the_formula():
    norm, x = RMSNorm(8), torch.randn(2, 3, 8)
    torch.nn.init.normal_(norm.weight)
    rms = (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    torch.testing.assert_close(norm(x), x / rms * norm.weight)
    plain = RMSNorm(8, affine=False)
    assert not list(plain.parameters())
    torch.testing.assert_close(plain(x), x / rms)


def test_autocast_does_not_change_the_dtype():
    with torch.autocast("cpu", torch.bfloat16):
        assert RMSNorm(8)(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert RMSNorm(8)(torch.randn(2, 8)).dtype == torch.float32


def test_modulation_of_zero_changes_nothing():
    x, shift, scale = torch.randn(3, 2, 5, 8)
    torch.testing.assert_close(modulate(x, torch.zeros(8), torch.zeros(8)), x)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)
