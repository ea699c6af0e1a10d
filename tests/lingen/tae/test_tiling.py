"""In pieces and tiles the TAE gives the numbers of the whole video at once; memory does not grow with its length."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.tae.config import TAEConfig
from lingen.tae.layers import SpatialConv
from lingen.tae.tae import TAE
from lingen.tae.tiling import TilingConfig

CONFIGS = {
    "movie_gen": TAEConfig(channels=(4, 4, 8, 8), blocks=2, decoder_blocks=3, latent_channels=4, attention_reach=1),
    "folded": TAEConfig(
        channels=(4, 8, 8),
        blocks=1,
        decoder_blocks=1,
        latent_channels=4,
        time_levels=2,
        patch=(2, 2, 2),
        linear_shortcut=True,
        attention_reach=2,
    ),
    "image": TAEConfig(channels=(4, 8), blocks=1, decoder_blocks=1, latent_channels=4, time_levels=0),
}


def make(name):
    """A TAE whose every weight matters, as if trained: nothing starts as zero or as the identity."""
    torch.manual_seed(0)
    tae = TAE(CONFIGS[name]).eval().requires_grad_(False)
    for p in tae.parameters():
        if p.ndim > 1:
            p.normal_(std=p[0].numel() ** -0.5)
    tae.set_normalisation(torch.arange(4.0), torch.arange(4.0) + 1)
    return tae


TAES = {name: make(name) for name in CONFIGS}


def same(pieces, whole):
    pieces = torch.cat(list(pieces), dim=2)
    assert pieces.shape == whole.shape
    torch.testing.assert_close(pieces, whole, atol=1e-4 * float(whole.abs().max()), rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=12, deadline=None)
@given(
    frames=st.integers(1, 40),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    piece=st.integers(1, 20),
    given_at_once=st.integers(1, 50),
    tile=st.sampled_from([8, 16, 768]),
)
def test_pieces_and_tiles_give_what_the_whole_video_gives(name, frames, height, width, piece, given_at_once, tile):
    tae, tiling = TAES[name], TilingConfig(frames=piece, tile=tile)
    video = torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = tae.encode(video)
    same(tae.encode_stream(video.split(given_at_once, dim=2), tiling), latent)
    same(tae.decode_stream(latent, frames, tiling), tae.decode(latent, frames))


@pytest.mark.parametrize("name", ["movie_gen", "folded"])
def test_wide_frames_in_many_tiles(name):
    """Tiles whose borders do not reach those of the frame: only here would a border that is too small show."""
    tae, tiling = TAES[name], TilingConfig(frames=8, tile=48)
    video = torch.rand(1, 3, 9, 16, 320) * 2 - 1
    latent = tae.encode(video)
    same(tae.encode_stream([video], tiling), latent)
    same(tae.decode_stream(latent, 9, tiling), tae.decode(latent, 9))


@pytest.mark.parametrize("frames", [1, 17, 33, 272, 271])
def test_frame_counts_are_exact(frames):
    """And the n-th frame stays the n-th: each has its own shade, which comes back."""
    torch.manual_seed(0)
    tae = TAE(TAEConfig(channels=(4, 4), blocks=1, decoder_blocks=1, time_levels=1, patch=(4, 4, 4),
                        linear_shortcut=True, latent_channels=8)).eval().requires_grad_(False)  # fmt: skip
    shades = torch.rand(64, 8) * 2 - 1
    tae.start_from_principal_components(shades.view(64, 1, 8, 1, 1).expand(-1, 3, -1, 8, 8))
    times = torch.rand(frames) * 2 - 1
    video = times.view(1, 1, frames, 1, 1).expand(-1, 3, -1, 16, 24)
    latent = torch.cat(list(tae.encode_stream(video.split(30, dim=2))), dim=2)
    assert latent.shape == (1, *tae.latent_shape(frames, 16, 24))
    decoded = torch.cat(list(tae.decode_stream(latent, frames)), dim=2)
    torch.testing.assert_close(decoded, video.contiguous(), atol=1e-3, rtol=0)


def test_only_a_few_pieces_are_alive():
    tae, alive = TAES["movie_gen"], weakref.WeakSet()

    def pieces():
        for _ in range(30):
            piece = torch.rand(1, 3, 8, 16, 16)
            alive.add(piece)
            yield piece

    held = []
    for i, latent in enumerate(tae.encode_stream(pieces(), TilingConfig(frames=8))):
        assert len(alive) <= 3
        if i in (5, 14):
            assert latent.shape[2] == 1
            # By type: isinstance fails on the dead weak proxies that other libraries leave behind.
            held.append(sum(t.numel() for t in gc.get_objects() if issubclass(type(t), torch.Tensor)))
    assert held[0] == held[1], "tensors held grow with the length"


def test_no_module_ever_works_on_more_than_a_piece(monkeypatch):
    """Also at the end of the video, when everything that was kept comes out."""
    longest = []
    forward = SpatialConv.forward
    monkeypatch.setattr(SpatialConv, "forward", lambda self, x: longest.append(x.shape[1]) or forward(self, x))
    tae, frames = TAES["movie_gen"], 80
    video = torch.rand(1, 3, frames, 8, 8)
    latent = tae.encode(video)
    longest.clear()
    list(tae.encode_stream(video.split(16, dim=2), TilingConfig(frames=16)))
    assert max(longest) <= 16 + 1, "inside a block the first convolution gives the second one frame more"
    longest.clear()
    list(tae.decode_stream(latent, frames, TilingConfig(frames=16)))
    assert max(longest) <= 16 + 2


def test_bad_settings_and_inputs_are_named():
    with pytest.raises(ValueError, match=r"tiling\.frames: must be at least 1, got 0"):
        TilingConfig(frames=0)
    with pytest.raises(ValueError, match=r"tiling\.tile: must be at least 1"):
        TilingConfig(tile=-1)
    with pytest.raises(ValueError, match=r"video: need \(B, 3, T, H, W\)"):
        list(TAES["image"].encode_stream([torch.zeros(1, 4, 8, 16, 16)]))
    with pytest.raises(ValueError, match="frames: 1 latent frames decode to"):
        list(TAES["movie_gen"].decode_stream(torch.zeros(1, 4, 1, 2, 2), 9))
