"""Padding: every token in its place, zero and masked elsewhere, dropped captions empty."""

import torch

from lingen.text.padding import pad_text


def test_tokens_keep_their_place_and_dropped_rows_are_empty():
    captions = [torch.randn(n, 4) for n in (3, 5, 1)]
    embedding, mask = pad_text(captions, drop=[False, True, False])
    assert embedding.shape == (3, 5, 4)
    assert mask.sum(1).tolist() == [3, 0, 1]
    assert torch.equal(embedding[0, :3], captions[0])
    assert torch.equal(embedding[2, :1], captions[2])
    assert not embedding[~mask].any()
    assert pad_text(captions)[1].sum(1).tolist() == [3, 5, 1]
