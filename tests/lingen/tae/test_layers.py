import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.tae.config import TAEConfig
from lingen.tae.layers import (
    Conv,
    Down,
    Middle,
    ResidualBlock,
    TemporalAttention,
    TemporalConv,
    Up,
    from_patches,
    to_patches,
)


@given(
    frames=st.integers(1, 9),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    patch=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=40, deadline=None)
def test_patches_come_back_and_the_last_frame_fills_the_last_patch(frames, height, width, patch):
    video = torch.rand(2, 3, frames, height * patch[1], width * patch[2])
    patches = to_patches(video, patch)
    assert patches.shape == (2, -(-frames // patch[0]), height, width, 3 * patch[0] * patch[1] * patch[2])
    back = from_patches(patches, patch)
    assert torch.equal(back[:, :, :frames], video)
    assert torch.equal(back[:, :, frames:], video[:, :, -1:].expand_as(back[:, :, frames:]))


@pytest.mark.parametrize(
    "layer", [TemporalConv(8), ResidualBlock(8, 8), TemporalAttention(8, heads=2, reach=2), Middle(8, TAEConfig())]
)
def test_layers_are_the_identity_at_first(layer):
    x = torch.randn(1, 5, 2, 3, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x)


@pytest.mark.parametrize("time", [False, True])
def test_down_halves_and_up_doubles(time):
    x = torch.randn(1, 5, 4, 7, 8)
    with torch.no_grad():
        assert Down(8, time)(x).shape == (1, 3 if time else 5, 2, 4, 8)
        assert Up(8, 4, time)(x).shape == (1, 10 if time else 5, 8, 14, 4)


def test_zeroed_weights_forget_the_input():
    conv = Conv(3, 8)
    with torch.no_grad():
        assert conv(torch.ones(1, 2, 4, 4, 3)).abs().max() > 0
        conv.zero_weights()
        assert conv(torch.ones(1, 2, 4, 4, 3)).abs().max() == 0


def test_temporal_attention_reaches_so_far_and_no_further():
    torch.manual_seed(0)
    attention = TemporalAttention(8, heads=2, reach=2)
    torch.nn.init.normal_(attention.out.weight)
    x = torch.randn(1, 9, 2, 3, 8)
    changed = x.clone()
    changed[:, 4] += torch.randn(8)
    with torch.no_grad():
        moved = (attention(x) - attention(changed)).abs().amax((0, 2, 3, 4)) > 1e-6
    assert moved.tolist() == [False, False, True, True, True, True, True, False, False]


def test_attention_for_some_frames_is_a_part_of_the_whole():
    torch.manual_seed(0)
    attention = TemporalAttention(8, heads=2, reach=2)
    torch.nn.init.normal_(attention.out.weight)
    x = torch.randn(2, 9, 2, 3, 8)
    with torch.no_grad():
        torch.testing.assert_close(attention.attend(x, 3, 6), attention(x)[:, 3:6])
