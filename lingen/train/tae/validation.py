"""Validation of the TAE: how well it reconstructs segments that it never trains on.

Legend: T frames, H/W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lingen.io.video import to_uint8
from lingen.tae.loss import psnr, ssim
from lingen.tae.tae import TAE
from lingen.train.tae.crops import Segments, spread, to_tensor


class Reconstruction:
    """The quality of reconstructed segments.

    Args:
        held_out: segments that training never sees.
    """

    def __init__(self, held_out: Segments):
        self._held_out = held_out

    @torch.no_grad()
    def __call__(self, tae: TAE, device: torch.device) -> dict[str, float]:
        """Mean PSNR (dB) and SSIM; PSNR also above that of the segments' mean colours. Empty without segments."""
        values, similar, gains = [], [], []
        for read in self._held_out:
            video = to_tensor(read())[None].to(device)
            decoded = _decoded(tae, video)
            colour = video.mean((2, 3, 4), keepdim=True).expand_as(video)
            values.append(psnr(decoded, video).item())
            similar.append(ssim(decoded, video).item())
            gains.append(values[-1] - psnr(colour, video).item())
        if not values:
            return {}
        return {
            "held_out/psnr": float(np.mean(values)),
            "held_out/ssim": float(np.mean(similar)),
            "held_out/gain_over_mean_colour": float(np.mean(gains)),
            "held_out/smallest_gain": float(np.min(gains)),
        }

    @torch.no_grad()
    def pictures(self, tae: TAE, device: torch.device, count: int = 4) -> list[np.ndarray]:
        """A few segments, the original on the left, the reconstruction on the right; uint8 (T, H, 2 W, 3)."""
        pictures = []
        for read in spread(self._held_out, count):
            video = to_tensor(read())[None].to(device)
            pictures.append(np.concatenate([to_uint8(video[0]), to_uint8(_decoded(tae, video)[0])], axis=2))
        return pictures


def _decoded(tae: TAE, video_13THW: Tensor) -> Tensor:
    return tae.decode_raw(tae.encode_raw(video_13THW), video_13THW.shape[2])
