"""What the TAE is trained on, and how reconstructions are measured (Movie Gen, 3.1.1).

Reconstruction (L1, in tae_training.py), a perceptual distance, a discriminator's verdict, and the outlier penalty.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def outlier_penalty(latent_BCTHW: Tensor, r: float = 3.0) -> Tensor:
    """Mean over positions of max(||x - mean|| - r ||std||, 0) (MG Eq. 1).

    Mean and std are per sample and channel over T, H, W; norms are over channels. It keeps the decoder from storing
    global information in a few extreme latents ("spot" artefacts).
    """
    mean = latent_BCTHW.mean(dim=(2, 3, 4), keepdim=True)
    std = latent_BCTHW.std(dim=(2, 3, 4), keepdim=True, correction=0)
    distance_BTHW = torch.linalg.vector_norm(latent_BCTHW - mean, dim=1)
    limit_BTHW = r * torch.linalg.vector_norm(std, dim=1)
    return (distance_BTHW - limit_BTHW).clamp_min(0).mean()


class PerceptualLoss(nn.Module):
    """Distance of frames in the features of a VGG-16 (Zhang et al. 2018: LPIPS with equal weights for all channels).

    Args: weights, a file of torchvision's vgg16 state dictionary (.pth or .safetensors); the classifier may be missing.

    Raises:
        ValueError: no such weights in the file.
    """

    TAPS = (3, 8, 15, 22, 29)  # relu1_2, 2_2, 3_3, 4_3, 5_3

    def __init__(self, weights: str | Path):
        super().__init__()
        from torchvision.models import vgg16

        self.features = vgg16(weights=None).features[: self.TAPS[-1] + 1]
        try:
            state = _read_state(Path(weights))
            prefix = "features." if any(name.startswith("features.") for name in state) else ""
            self.features.load_state_dict({name: state[prefix + name] for name in self.features.state_dict()})
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(f"fit.perceptual: {weights} holds no weights of torchvision's vgg16 ({error})") from error
        for i, module in enumerate(self.features):
            if isinstance(module, nn.ReLU):
                self.features[i] = nn.ReLU(inplace=False)
        self.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, a_B3THW: Tensor, b_B3THW: Tensor) -> Tensor:
        """Mean over frames and positions, summed over layers; 0 for equal videos in [-1, 1]."""
        x, y = (self._pictures(video) for video in (a_B3THW, b_B3THW))
        total = x.new_zeros(())
        for i, module in enumerate(self.features):
            x, y = module(x), module(y)
            if i in self.TAPS:
                difference = F.normalize(x, dim=1, eps=1e-6) - F.normalize(y, dim=1, eps=1e-6)
                total = total + difference.square().sum(1).mean()
        return total

    def _pictures(self, video_B3THW: Tensor) -> Tensor:
        return (video_B3THW.transpose(1, 2).flatten(0, 1) / 2 + 0.5 - self.mean) / self.std


class PatchDiscriminator(nn.Module):
    """Real or decoded, for every patch of a video (Isola et al. 2017, with time); a picture is a video of one frame."""

    def __init__(self, width: int = 64):
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(pairwise(widths)):
            layers.append(nn.Conv3d(c_in, c_out, (3, 4, 4), stride=(1, 2, 2), padding=(1, 1, 1)))
            if i:
                layers.append(nn.GroupNorm(8, c_out))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, 3, padding=1))

    def forward(self, video_B3THW: Tensor) -> Tensor:
        """(B, 1, T, H/8, W/8): above 0 where it takes the patch for real."""
        return self.layers(video_B3THW)

    def loss(self, real_B3THW: Tensor, decoded_B3THW: Tensor) -> Tensor:
        """Hinge loss of the discriminator; no gradient for the decoder."""
        return (F.relu(1 - self(real_B3THW)).mean() + F.relu(1 + self(decoded_B3THW.detach())).mean()) / 2

    def verdict(self, decoded_B3THW: Tensor) -> Tensor:
        """What the decoder minimises; no gradient for the discriminator's weights."""
        weights = {name: p.detach() for name, p in self.named_parameters()}
        return -torch.func.functional_call(self, weights, (decoded_B3THW,)).mean()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each sample (first axis) of two tensors in [-1, 1], clamped to it."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).float().pow(2).flatten(1).mean(1)
    return 10 * torch.log10(4.0 / error.clamp_min(1e-10))


def ssim(a_B3THW: Tensor, b_B3THW: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each sample, mean over frames, colours and positions.

    Videos in [-1, 1], clamped to it; Gaussian window of 11 pixels (fewer in tiny pictures) and sigma 1.5.
    """
    x, y = (v.clamp(-1, 1).float().transpose(1, 2).flatten(0, 2)[:, None] / 2 + 0.5 for v in (a_B3THW, b_B3THW))
    radius = min(5, (min(x.shape[-2:]) - 1) // 2)
    line = torch.exp(-torch.arange(-radius, radius + 1, device=x.device).square() / (2 * 1.5**2))
    line = line / line.sum()

    def blur(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity.view(len(a_B3THW), -1).mean(1)


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
