"""Losses of the TAE, and metrics of its reconstructions (Movie Gen, 3.1.1).

A perceptual distance, an adversarial loss and the outlier penalty; the L1 loss is in lingen/train/tae/objective.py.

Legend: B batch, C channels, T frames (or latent frames), H height, W width.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingen.io.tensors import read_tensors


def outlier_penalty(latent_BCTHW: Tensor, r: float = 3.0) -> Tensor:
    """Mean over positions of max(||x - mean|| - r ||std||, 0) (Movie Gen, Eq. 1).

    Mean and std are per sample and channel over T, H, W; norms are over channels. The penalty keeps the decoder from
    storing global information in a few extreme latents ("spot" artefacts).
    """
    mean = latent_BCTHW.mean(dim=(2, 3, 4), keepdim=True)
    std = latent_BCTHW.std(dim=(2, 3, 4), keepdim=True, correction=0)
    distance_BTHW = torch.linalg.vector_norm(latent_BCTHW - mean, dim=1)
    limit_BTHW = r * torch.linalg.vector_norm(std, dim=1)
    return (distance_BTHW - limit_BTHW).clamp_min(0).mean()


class PerceptualLoss(nn.Module):
    """Distance of frames in the features of a VGG-16 (Zhang et al. 2018: LPIPS with equal weights for all channels).

    Args:
        weights: file with the state dictionary of torchvision's vgg16 (.pth or .safetensors), with or without the
            classifier.

    Raises:
        ValueError: the file does not contain these weights.
    """

    mean: Tensor
    std: Tensor

    TAPS = (3, 8, 15, 22, 29)  # relu1_2, 2_2, 3_3, 4_3, 5_3

    def __init__(self, weights: str | Path):
        super().__init__()
        from torchvision.models import vgg16

        self.features = vgg16(weights=None).features[: self.TAPS[-1] + 1]
        try:
            state = read_tensors(weights)
            prefix = "features." if any(name.startswith("features.") for name in state) else ""
            self.features.load_state_dict({name: state[prefix + name] for name in self.features.state_dict()})
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"fit.perceptual: {weights} does not contain the weights of torchvision's vgg16 ({error})"
            ) from error
        for i, module in enumerate(self.features):
            if isinstance(module, nn.ReLU):
                self.features[i] = nn.ReLU(inplace=False)
        self.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, a_B3THW: Tensor, b_B3THW: Tensor) -> Tensor:
        """Distance of two videos in [-1, 1]: mean over frames and positions, summed over layers; 0 for equal ones."""
        x, y = (self._images(video) for video in (a_B3THW, b_B3THW))
        total = x.new_zeros(())
        for i, module in enumerate(self.features):
            x, y = module(x), module(y)
            if i in self.TAPS:
                difference = F.normalize(x, dim=1, eps=1e-6) - F.normalize(y, dim=1, eps=1e-6)
                total = total + difference.square().sum(1).mean()
        return total

    def _images(self, video_B3THW: Tensor) -> Tensor:
        return (video_B3THW.transpose(1, 2).flatten(0, 1) / 2 + 0.5 - self.mean) / self.std


class PatchDiscriminator(nn.Module):
    """Classifier of the patches of a video as real or decoded (Isola et al. 2017, with time); an image is one frame."""

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
        """Logits (B, 1, T, H/8, W/8), above 0 where a patch is taken for real."""
        return self.layers(video_B3THW)

    def loss(self, real_B3THW: Tensor, decoded_B3THW: Tensor) -> Tensor:
        """Hinge loss of the discriminator, without a gradient for the decoder."""
        return (F.relu(1 - self(real_B3THW)).mean() + F.relu(1 + self(decoded_B3THW.detach())).mean()) / 2

    def generator_loss(self, decoded_B3THW: Tensor) -> Tensor:
        """Adversarial loss of the decoder, without a gradient for the discriminator's weights."""
        weights = {name: p.detach() for name, p in self.named_parameters()}
        return -torch.func.functional_call(self, weights, (decoded_B3THW,)).mean()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each sample (first axis) of two tensors, clamped to [-1, 1]."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).float().pow(2).flatten(1).mean(1)
    return 10 * torch.log10(4.0 / error.clamp_min(1e-10))


def ssim(a_B3THW: Tensor, b_B3THW: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each sample, mean over frames, colours and positions.

    Videos are clamped to [-1, 1]; the Gaussian kernel has 11 pixels (fewer in tiny frames) and sigma 1.5.
    """
    x, y = (v.clamp(-1, 1).float().transpose(1, 2).flatten(0, 2)[:, None] / 2 + 0.5 for v in (a_B3THW, b_B3THW))
    radius = min(5, (min(x.shape[-2:]) - 1) // 2)
    kernel = torch.exp(-torch.arange(-radius, radius + 1, device=x.device).square() / (2 * 1.5**2))
    kernel = kernel / kernel.sum()

    def blur(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity.view(len(a_B3THW), -1).mean(1)
