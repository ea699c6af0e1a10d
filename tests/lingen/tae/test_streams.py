"""Every layer, given a video in pieces of any length, emits what it gives for the whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.tae.config import TAEConfig
from lingen.tae.layers import Conv, Down, Middle, ResidualBlock, TemporalAttention, TemporalConv, Up, to_patches
from lingen.tae.streams import Chain, Patches, Sum, chain, rebatch, stream, with_last

torch.manual_seed(0)
LAYERS = {
    "norm-free conv": Conv(4, 4),
    "temporal conv": TemporalConv(4),
    "strided temporal conv": TemporalConv(4, stride=2),
    "temporal attention": TemporalAttention(4, heads=2, reach=2),
    "residual block": ResidualBlock(4, 4),
    "middle": Middle(4, TAEConfig(attention_reach=1)),
    "down": Down(4, time=True),
    "up": Up(4, 4, time=True),
}
for layer in LAYERS.values():
    for p in layer.requires_grad_(False).parameters():
        p.normal_(std=0.3)
lengths = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def run(push, x, sizes):
    """The outputs of a stream, joined."""
    emitted = [push(piece, last) for piece, last in with_last(iter(x.split(sizes, dim=1)))]
    assert emitted[-1] is not None, "the last piece completes something"
    return torch.cat([y for y in emitted if y is not None], dim=1)


@pytest.mark.parametrize("name", LAYERS)
@given(sizes=lengths)
@settings(max_examples=15, deadline=None)
def test_a_stream_emits_what_its_layer_gives_for_the_whole(name, sizes):
    x = torch.randn(2, sum(sizes), 4, 2, 4)
    torch.testing.assert_close(run(stream(LAYERS[name]), x, sizes), LAYERS[name](x), atol=1e-5, rtol=1e-4)


@given(sizes=lengths, frames=st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_a_chain_of_layers_with_limits_is_their_composition(sizes, frames):
    layers = [LAYERS[name] for name in ("down", "temporal attention", "up", "residual block")]
    x = torch.randn(1, sum(sizes), 4, 2, 4)
    expected = x
    for layer in layers:
        expected = layer(expected)
    torch.testing.assert_close(run(chain(layers, frames), x, sizes), expected, atol=1e-4, rtol=1e-4)


@given(sizes=lengths, patch=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_patches_of_pieces_are_those_of_the_whole(sizes, patch):
    video = torch.rand(1, sum(sizes), 2, 2, 3)
    patches = run(Patches((patch, 2, 2)), video, sizes)
    assert torch.equal(patches, to_patches(video.permute(0, 4, 1, 2, 3), (patch, 2, 2)))


@given(sizes=lengths)
@settings(max_examples=15, deadline=None)
def test_a_sum_waits_for_the_slower_stream(sizes):
    x = torch.randn(1, sum(sizes), 1, 1, 4)
    push = Sum(stream(LAYERS["temporal attention"]), Chain([lambda x, last: 2 * x]))
    torch.testing.assert_close(run(push, x, sizes), LAYERS["temporal attention"](x) + 2 * x, atol=1e-5, rtol=1e-4)


@given(sizes=lengths, frames=st.integers(1, 10))
@settings(max_examples=30, deadline=None)
def test_rebatched_pieces_are_full_but_for_the_last(sizes, frames):
    video = torch.rand(1, 3, sum(sizes), 1, 2)
    pieces, last = zip(*rebatch(video.split(sizes, dim=2), frames))
    assert torch.equal(torch.cat(pieces, dim=1), video.permute(0, 2, 3, 4, 1))
    assert all(piece.shape[1] == frames for piece in pieces[:-1])
    assert 1 <= pieces[-1].shape[1] <= frames
    assert last == (False,) * (len(pieces) - 1) + (True,)


def test_no_piece_gives_no_piece():
    assert list(rebatch([], 4)) == []
