"""Attention against the softmax formula; masks; what a fresh cross-attention adds."""

import math

import pytest
import torch

from lingen.model.attention import CrossAttention, SelfAttention, attention, check_attention_backend


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backend", ["sdpa", "flash_attn"])  # on the CPU flash_attn falls back to sdpa
def test_it_is_the_softmax_formula(backend, masked):
    q, k, v = torch.randn(2, 5, 3, 8), torch.randn(2, 7, 3, 8), torch.randn(2, 7, 3, 8)
    mask = torch.rand(2, 7) < 0.6 if masked else None
    scores = torch.einsum("bnap,blap->banl", q, k) / math.sqrt(8)
    if masked:
        mask[:, 0] = True
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    expected = torch.einsum("banl,blap->bnap", scores.softmax(-1), v)
    torch.testing.assert_close(attention(q, k, v, mask, backend), expected, atol=1e-5, rtol=1e-5)


def test_self_attention_sees_all_tokens_and_no_order():
    torch.manual_seed(0)
    layer, x = SelfAttention(16, 2), torch.randn(1, 2, 3, 4, 16)
    order = torch.randperm(24)
    shuffled = x.flatten(1, 3)[:, order].view_as(x)
    torch.testing.assert_close(layer(shuffled).flatten(1, 3), layer(x).flatten(1, 3)[:, order], atol=1e-5, rtol=1e-5)
    moved = x.clone()
    moved[0, 1, 2, 3] += 1
    assert ((layer(moved) - layer(x)).abs().amax(-1) > 0).all()


def test_fresh_cross_attention_adds_nothing_and_a_trained_one_ignores_masked_text():
    layer, x, text = CrossAttention(16, 2), torch.randn(1, 2, 3, 4, 16), torch.randn(1, 5, 16)
    mask = torch.tensor([[True, True, False, True, False]])
    assert layer(x, text, mask).abs().max() == 0
    torch.nn.init.normal_(layer.out.weight)
    elsewhere = torch.where(mask[..., None], text, text + 1)
    torch.testing.assert_close(layer(x, elsewhere, mask), layer(x, text, mask))
    assert not torch.allclose(layer(x, text + 1, mask), layer(x, text, mask), atol=1e-3)


def test_backends_are_refused_in_one_line(monkeypatch):
    check_attention_backend("sdpa")
    with pytest.raises(ValueError, match="attention_backend: 'magic' is unknown; choose one of sdpa, flash_attn"):
        check_attention_backend("magic")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="attention_backend: flash_attn is not installed"):
        check_attention_backend("flash_attn")
