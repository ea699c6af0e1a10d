"""Latents decoded to frames for people to look at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from lingen.io.video import to_uint8
from lingen.tae.diffusers import DiffusersTAE
from lingen.tae.tae import TAE
from lingen.tae.tiling import TilingConfig


def decoded_frames(
    tae: TAE | DiffusersTAE, latent_CTHW: Tensor, frames: int, tiling: TilingConfig | None = None
) -> Iterator[np.ndarray]:
    """Decode a normalised latent piece by piece; memory does not grow with the length.

    Args:
        tae: the autoencoder of the latent.
        latent_CTHW: one latent, of any floating-point type.
        frames: length of the video.
        tiling: how much is decoded at once.

    Returns:
        Pieces of the video, uint8 (t, H, W, 3), `frames` in all.
    """
    for piece in tae.decode_stream(latent_CTHW[None].float(), frames, tiling):
        yield to_uint8(piece[0])
