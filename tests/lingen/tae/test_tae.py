import pytest
import torch

from lingen.tae.config import TAE_PRESETS, TAEConfig
from lingen.tae.tae import TAE

SMALL = TAEConfig(channels=(8, 8, 16, 16), blocks=1, decoder_blocks=1)  # Movie Gen's shape, thin
FOLDED = TAEConfig(
    channels=(8, 16, 16), blocks=1, decoder_blocks=1, time_levels=2, patch=(2, 2, 2), linear_shortcut=True
)


@pytest.fixture(params=[SMALL, FOLDED], ids=["movie_gen", "folded"])
def tae(request):
    torch.manual_seed(0)
    return TAE(request.param).eval()


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 17, 33])
@pytest.mark.parametrize(("height", "width"), [(16, 24), (13, 23)])
def test_any_length_and_size_comes_back(tae, frames, height, width):
    video = torch.rand(1, 3, frames, height, width) * 2 - 1
    with torch.no_grad():
        latent = tae.encode(video)
        decoded = tae.decode(latent, frames, (height, width))
    assert latent.shape == (1, *tae.latent_shape(frames, height, width)) == (1, 16, -(-frames // 8), 2, 3)
    assert decoded.shape == video.shape


def test_the_papers_tae_gives_the_papers_latent():
    with torch.device("meta"):
        paper = TAE(TAE_PRESETS["tae_paper"])
        assert paper.encode(torch.zeros(1, 3, 272, 192, 352)).shape == (1, 16, 34, 24, 44)


def test_untrained_inflation_treats_every_frame_as_an_image():
    """The temporal convolutions are the identity at first and replicate at the ends: a still video stays still."""
    torch.manual_seed(0)
    tae = TAE(SMALL).eval()
    image = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        still = tae.encode_raw(image.expand(-1, -1, 16, -1, -1))
        torch.testing.assert_close(still[:, :, 0], tae.encode_raw(image)[:, :, 0])
        torch.testing.assert_close(still[:, :, 0], still[:, :, 1])


def test_time_reaches_across_frames_once_trained():
    torch.manual_seed(0)
    tae = TAE(SMALL).eval()
    with torch.no_grad():
        for name, p in tae.named_parameters():
            if p.abs().max() == 0 or "conv2" in name:
                p.normal_(std=0.1)
    video = torch.rand(1, 3, 24, 16, 16)
    changed = video.clone()
    changed[:, :, -1] += 1
    with torch.no_grad():
        difference = (tae.encode_raw(video) - tae.encode_raw(changed)).abs().amax((0, 1, 3, 4))
    assert (difference > 0).all(), "temporal attention sees these three latent frames"


def test_principal_components_are_the_best_linear_autoencoder():
    torch.manual_seed(0)
    tae = TAE(FOLDED).eval()
    basis = torch.randn(16, 3, 8, 8, 8)
    blocks = torch.einsum("nk,kcthw->ncthw", torch.randn(300, 16), basis)  # data of rank 16: nothing need be lost
    tae.start_from_principal_components(blocks)
    with torch.no_grad():
        latent = tae.encode_raw(blocks)
        decoded = tae.decode_raw(latent, 8)
    torch.testing.assert_close(decoded, blocks, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(latent.std(0).flatten(), torch.ones(16), atol=0.1, rtol=0)


def test_normalised_latents_have_zero_mean_and_unit_variance():
    torch.manual_seed(0)
    tae = TAE(SMALL).eval()
    video = torch.rand(4, 3, 16, 32, 32) * 2 - 1
    with torch.no_grad():
        raw = tae.encode_raw(video)
        tae.set_normalisation(raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4)))
        latent = tae.encode(video)
        torch.testing.assert_close(tae.decode(latent), tae.decode_raw(raw), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(latent.mean((0, 2, 3, 4)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(latent.std((0, 2, 3, 4)), torch.ones(16), atol=1e-3, rtol=0)


def test_wrong_input_is_named(tae):
    with pytest.raises(ValueError, match=r"video: need \(B, 3, T, H, W\)"):
        tae.encode(torch.zeros(1, 4, 8, 16, 16))
    with pytest.raises(ValueError, match="frames: 1 latent frames decode to"):
        tae.decode(torch.zeros(1, 16, 1, 2, 2), frames=9)
