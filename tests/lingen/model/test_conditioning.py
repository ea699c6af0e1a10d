"""Conditioning: times keep their precision, gates start closed, the null token stands in for absent text."""

import pytest
import torch

from lingen.model.conditioning import AdaLN, TextProjection, TimestepEmbedding


def test_nearby_times_differ_in_bfloat16_weights():
    """The sinusoids are float32: 0.500 and 0.501 are one number in bfloat16."""
    embed = TimestepEmbedding(32).to(torch.bfloat16)
    a, b = embed(torch.tensor([0.500, 0.501]))
    assert a.dtype == torch.bfloat16
    assert not torch.equal(a, b)


def test_gates_start_at_zero():
    modulation = AdaLN(16)(torch.randn(3, 16))
    assert modulation.shape == (3, 6, 16)
    assert [bool(modulation[:, i].any()) for i in range(6)] == [True, True, False, True, True, False]


def test_text_is_one_sequence_behind_the_null_token():
    project = TextProjection((12, 20), 16)
    a, b = torch.randn(2, 5, 12), torch.randn(2, 3, 20)
    mask_a, mask_b = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    mask_a[0, 3:] = False
    mask_a[1] = mask_b[1] = False  # the second row has no text
    tokens, mask = project([(a, mask_a), (b, mask_b)])
    assert tokens.shape == (2, 1 + 5 + 3, 16)
    assert mask.tolist() == [[False, *[True] * 3, False, False, *[True] * 3], [True, *[False] * 8]]
    assert torch.equal(tokens[:, 0], project.null.expand(2, -1))
    torch.testing.assert_close(tokens[0, 1:4], project.encoders[0](a[0, :3]))
    torch.testing.assert_close(tokens[0, 6:], project.encoders[1](b[0]))


@pytest.mark.parametrize("dims", [(12,), (20, 12)])
def test_other_encoders_are_refused_with_the_field(dims):
    text = [(torch.randn(1, 2, dim), torch.ones(1, 2, dtype=torch.bool)) for dim in dims]
    with pytest.raises(ValueError, match=r"^text: .* text_dims"):
        TextProjection((12, 20), 16)(text)
