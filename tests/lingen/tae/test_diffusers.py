"""Public autoencoders in place of the TAE: the real classes, with random weights."""

import pytest
import torch

from lingen.tae.diffusers import DiffusersTAE
from lingen.tae.frames import decoded_frames
from lingen.tae.pretrained import load_tae, save_tae

diffusers = pytest.importorskip("diffusers")


def make(name):
    torch.manual_seed(0)
    if name == "cosmos":
        return diffusers.AutoencoderKLCosmos(
            encoder_block_out_channels=(4, 4, 8, 8),
            decode_block_out_channels=(4, 8, 8, 8),
            num_layers=1,
            attention_resolutions=(8,),
            resolution=64,
        )
    return diffusers.AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


@pytest.fixture(scope="module", params=["cosmos", "wan"])
def tae(request):
    return DiffusersTAE(make(request.param))


def test_each_has_its_own_ratio(tae):
    factors = {"AutoencoderKLCosmos": (8, 8, 16), "AutoencoderKLWan": (4, 8, 16)}
    c = tae.config
    assert (c.temporal_factor, c.spatial_factor, c.latent_channels) == factors[c.name]
    assert tae.latent_shape(272, 192, 352) == (16, {8: 35, 4: 69}[c.temporal_factor], 24, 44)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 32, 32), (2, 16, 24), (17, 33, 40)])
def test_any_length_and_size_comes_back(tae, frames, height, width):
    video = torch.rand(1, 3, frames, height, width) * 2 - 1
    with torch.no_grad():
        latent = tae.encode(video)
        assert latent.shape == (1, *tae.latent_shape(frames, height, width))
        assert tae.decode(latent, frames, (height, width)).shape == video.shape


def test_tiles_of_time_follow_each_other(tae):
    """The same number of frames, each in its place: equal to the whole before the first seam, similar after it."""
    video = torch.rand(1, 3, 90, 16, 16) * 2 - 1
    with torch.no_grad():
        latent = tae.encode(video)
        pieces = list(tae.encode_stream(video.split(20, dim=2)))
        whole = tae.decode(latent, 90)
        frames = torch.cat(list(tae.decode_stream(latent, 90)), dim=2)
    assert len(pieces) == 2
    seam = tae._tile + 1 - tae._overlap
    together = torch.cat(pieces, dim=2)
    torch.testing.assert_close(together[:, :, :seam], latent[:, :, :seam], atol=1e-4, rtol=0)
    assert together.shape == latent.shape
    assert (together - latent).std() < 0.2 * latent.std()
    first = seam * tae.config.temporal_factor
    assert frames.shape == whole.shape
    torch.testing.assert_close(frames[:, :, :first], whole[:, :, :first], atol=1e-4, rtol=0)


def test_behind_the_seam_time_is_not_shifted(tae):
    """These models are causal: a change affects nothing before it. So the first difference tells the time."""
    torch.manual_seed(1)
    video, at = torch.rand(1, 3, 97, 16, 16) * 2 - 1, 81  # 1 + 80, 1 + 96: the start of a latent frame for both
    changed = video.clone()
    changed[:, :, at:] = -changed[:, :, at:]

    def first_change(pieces, others):
        moved = (torch.cat(list(pieces), dim=2) - torch.cat(list(others), dim=2)).abs().amax((0, 1, 3, 4)) > 1e-6
        return moved.nonzero()[0].item()

    with torch.no_grad():
        assert (
            first_change(tae.encode_stream([video]), tae.encode_stream([changed]))
            == 1 + 80 // tae.config.temporal_factor
        )
        latent = tae.encode(video)
        other = latent.clone()
        other[:, :, 1 + 80 // tae.config.temporal_factor :] *= -1
        assert first_change([tae.decode(latent)], [tae.decode(other)]) == at
        assert first_change(tae.decode_stream(latent), tae.decode_stream(other)) == at


def test_saved_beside_the_latents_it_is_loaded_like_any_tae(tae, tmp_path):
    save_tae(tae, tmp_path)
    again = load_tae(tmp_path)
    assert isinstance(again, DiffusersTAE)
    assert again.digest == tae.digest
    video = torch.rand(1, 3, 5, 16, 16)
    with torch.no_grad():
        latent = tae.encode(video)
        torch.testing.assert_close(again.encode(video), latent)
        shown = list(decoded_frames(again, latent[0], 5))
    assert sum(len(piece) for piece in shown) == 5
    with torch.no_grad():
        next(again.parameters()).add_(1e-3)
    assert again.digest != tae.digest


def test_opened_by_path_and_subfolder(tmp_path):
    vae = make("cosmos")
    vae.save_pretrained(tmp_path / "model" / "vae")
    assert load_tae(f"diffusers:{tmp_path}/model#vae").digest == DiffusersTAE(vae).digest
    assert load_tae(f"diffusers:{tmp_path}/model/vae").config.name == "AutoencoderKLCosmos"
    with pytest.raises(ValueError, match="--tae: no autoencoder of diffusers at"):
        load_tae(f"diffusers:{tmp_path}/nothing")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path / "image")
    with pytest.raises(ValueError, match="AutoencoderKL has no temporal_compression_ratio"):
        load_tae(f"diffusers:{tmp_path}/image")
