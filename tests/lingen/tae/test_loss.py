import os

import numpy as np
import pytest
import torch

from lingen.tae.loss import PatchDiscriminator, PerceptualLoss, outlier_penalty, psnr, ssim


def test_outlier_penalty_is_zero_without_outliers_and_grows_with_one():
    torch.manual_seed(0)
    latent = torch.randn(1, 16, 2, 8, 8)
    assert outlier_penalty(latent) == 0
    # By hand: one position far out, everything else 0, r = 0.
    spike = torch.zeros(1, 1, 1, 1, 4)
    spike[..., 0] = 4.0  # mean 1, distances 3 1 1 1, std sqrt(3)
    assert outlier_penalty(spike, r=0.0).item() == pytest.approx(6 / 4)
    assert outlier_penalty(spike, r=1.0).item() == pytest.approx((3 - 3**0.5) / 4)


def test_psnr_by_hand():
    a = torch.zeros(2, 3, 1, 2, 2)
    b = torch.stack([torch.full((3, 1, 2, 2), 0.2), torch.full((3, 1, 2, 2), 2.0)])  # the second is clamped to 1
    assert psnr(a, b).tolist() == pytest.approx([20.0, 10 * torch.log10(torch.tensor(4.0)).item()])


@pytest.mark.parametrize("side", [24, 8])
def test_ssim_is_scikit_images(side):
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 4, side, side, generator=generator) * 2 - 1
    b = (a + 0.3 * torch.randn(a.shape, generator=generator)).clamp(-1, 1)
    settings = {"gaussian_weights": True, "sigma": 1.5, "truncate": 3.5} if side > 11 else None
    for got, x, y in zip(ssim(a, b), a.numpy() / 2 + 0.5, b.numpy() / 2 + 0.5):
        assert 0 < got < 1
        if settings:
            maps = [
                structural_similarity(*(v[:, t].transpose(1, 2, 0) for v in (x, y)), channel_axis=2, data_range=1.0,
                                      use_sample_covariance=False, full=True, **settings)[1]
                for t in range(4)
            ]  # fmt: skip
            assert got.item() == pytest.approx(np.mean([m[5:-5, 5:-5] for m in maps]), abs=1e-4)
    assert ssim(a, a).tolist() == pytest.approx([1.0, 1.0])


@pytest.fixture(scope="module")
def perceptual(tmp_path_factory):
    """With random weights: the distance is tested, not the features of a trained VGG."""
    from torchvision.models import vgg16

    torch.manual_seed(0)
    with torch.device("meta"):
        vgg = vgg16(weights=None)
    state = {name: torch.randn(p.shape) * (2 / p[0].numel()) ** 0.5 for name, p in vgg.named_parameters()
             if name.startswith("features.")}  # fmt: skip
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(state, path)
    return PerceptualLoss(path)


def test_perceptual_distance_is_zero_at_equality_and_grows_with_the_difference(perceptual):
    torch.manual_seed(0)
    video, noise = torch.rand(1, 3, 2, 32, 32) * 2 - 1, torch.randn(1, 3, 2, 32, 32)
    assert perceptual(video, video).item() == 0
    near, far = (perceptual(video + a * noise, video).item() for a in (0.1, 0.5))
    assert 0 < near < far
    decoded = (video + 0.1 * noise).requires_grad_()
    loss = perceptual(decoded, video)
    (gradient,) = torch.autograd.grad(loss, decoded)
    with torch.no_grad():
        assert perceptual(decoded - 0.01 * gradient / gradient.norm(), video) < loss
    assert not any(p.requires_grad for p in perceptual.parameters())


def test_other_weights_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"fit\.perceptual: .*x\.pth does not contain the weights of .* vgg16"):
        PerceptualLoss(tmp_path / "x.pth")
    torch.save({"features.0.weight": os.system}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"fit\.perceptual: .* \(.*x\.pth names posix\.system, .* refused\)$"):
        PerceptualLoss(tmp_path / "x.pth")


@pytest.mark.parametrize("frames", [1, 5])
def test_discriminator_learns_what_is_real_and_its_generator_loss_trains_only_the_decoder(frames):
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=8)
    real, decoded = torch.rand(2, 3, frames, 32, 32), torch.zeros(2, 3, frames, 32, 32, requires_grad=True)
    assert discriminator(real).shape == (2, 1, frames, 4, 4)
    discriminator.generator_loss(decoded).backward()
    assert decoded.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())
    decoded.grad = None
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = discriminator.loss(real, decoded)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert decoded.grad is None
    assert losses[-1] < 0.5 * losses[0]
    assert discriminator(real).mean() > discriminator(decoded).mean()
