"""The temporal autoencoder (TAE): video to latents, 8x in time, 8x8 in space (Movie Gen, 2410.13720, 3.1.1).

An image autoencoder inflated in time: a 1-D temporal convolution after every 2-D convolution, temporal attention after
spatial attention, stride-2 convolution down and nearest neighbour + convolution up in time, replicate padding in time.
The temporal convolutions are initialised to the identity, so an untrained TAE treats every frame as an image; a single
frame is an image throughout. Temporal attention reaches a few latent frames either way (Movie Gen bounds it by cutting
videos into tiles): no frame depends on all others, and lingen/tae/tiling.py encodes and decodes any length piece by
piece.

Normalisation is RMS over channels at each position (where Stable Diffusion's autoencoder has GroupNorm): statistics
across positions would make a tile differ from the same pixels in the whole video.

Legend: B batch, C channels, T frames (or latent frames), H height, W width; N blocks of pixels, P values of a block,
Z latent channels. Inside, tensors are BTHWC in memory: the spatial and the temporal convolution both read that as a
channels-last image without a copy.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingen.io.manifest import to_plain
from lingen.tae.config import TAEConfig
from lingen.tae.layers import Conv, Down, Middle, ResidualBlock, Up, from_patches, to_patches
from lingen.tae.tiling import TilingConfig, decode_stream, encode_stream

IN_CHANNELS = 3


class TAE(nn.Module):
    """Encoder and decoder, with the measured shift and scale that make latents zero-mean and unit-variance.

    `encode` and `decode` work on normalised latents; training uses `encode_raw` and `decode_raw`.

    Args:
        config: size.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, config: TAEConfig):
        super().__init__()
        self.config = config
        widths, z = config.channels, config.latent_channels
        pixels = IN_CHANNELS * math.prod(config.patch)
        encoder: list[nn.Module] = [Conv(pixels, widths[0])]
        for level, width in enumerate(widths):
            c_in = widths[max(level - 1, 0)]
            encoder += [ResidualBlock(c_in if i == 0 else width, width) for i in range(config.blocks)]
            if level < len(widths) - 1:
                encoder.append(Down(width, time=level < config.time_levels))
        # No norm before the last convolutions: per-position norms would remove the amplitude that they must output.
        encoder += [Middle(widths[-1], config), Conv(widths[-1], z)]
        decoder: list[nn.Module] = [Conv(z, widths[-1]), Middle(widths[-1], config)]
        for level, width in reversed(list(enumerate(widths))):
            decoder += [ResidualBlock(width, width) for _ in range(config.decoder_blocks)]
            if level > 0:
                decoder.append(Up(width, widths[level - 1], time=level - 1 < config.time_levels))
        decoder += [Conv(widths[0], pixels)]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        if config.linear_shortcut:
            block = IN_CHANNELS * math.prod(self.block)
            self.linear_encoder, self.linear_decoder = nn.Linear(block, z), nn.Linear(z, block)
        self.register_buffer("shift", torch.zeros(z))
        self.register_buffer("scale", torch.ones(z))

    @property
    def block(self) -> tuple[int, int, int]:
        """T, H, W pixels behind one latent position."""
        return self.config.temporal_factor, self.config.spatial_factor, self.config.spatial_factor

    @torch.no_grad()
    def start_from_principal_components(self, video_B3THW: Tensor) -> None:
        """Initialise the linear shortcut to the best linear autoencoder of some videos (Baldi and Hornik 1989).

        The last layers of the network are zeroed: before the first step the TAE is exactly that linear autoencoder,
        with latents of unit variance.
        """
        blocks_NP = to_patches(video_B3THW, self.block).flatten(0, 3).double()
        mean_P = blocks_NP.mean(0)
        centred = blocks_NP - mean_P
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        z = self.config.latent_channels
        basis_PZ, std_Z = vectors[:, -z:].flip(1), values[-z:].flip(0).clamp_min(1e-8).sqrt()
        self.linear_encoder.weight.copy_(basis_PZ.T / std_Z[:, None])
        self.linear_encoder.bias.copy_(-(mean_P @ basis_PZ) / std_Z)
        self.linear_decoder.weight.copy_(basis_PZ * std_Z)
        self.linear_decoder.bias.copy_(mean_P)
        for conv in (self.encoder[-1], self.decoder[-1]):
            assert isinstance(conv, Conv)
            conv.zero_weights()

    @property
    def digest(self) -> str:
        """16 hex digits over configuration, weights, shift and scale: the revision that latents are tied to."""
        h = hashlib.sha256(repr(to_plain(self.config)).encode())
        for name, tensor in sorted(self.state_dict().items()):
            h.update(name.encode())
            h.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return h.hexdigest()[:16]

    def encode(self, video_B3THW: Tensor) -> Tensor:
        """Encode videos at once.

        Args:
            video_B3THW: videos in [-1, 1].

        Returns:
            Normalised latents (B, C, ceil(T/8), ceil(H/8), ceil(W/8)).

        Raises:
            ValueError: not 5 axes with 3 channels.
        """
        return self.normalise(self.encode_raw(video_B3THW))

    def decode(self, latent_BCTHW: Tensor, frames: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Decode latents at once.

        Args:
            latent_BCTHW: normalised latents.
            frames: length of the video, at most 8 T (an image: 1); None: 8 T.
            size: height and width that are kept from the top left; None: 8 H, 8 W.

        Returns:
            Videos (B, 3, frames, height, width), about [-1, 1], not clamped.

        Raises:
            ValueError: not latents, or of fewer frames.
        """
        video = self.decode_raw(self.denormalise(latent_BCTHW), frames)
        return video if size is None else video[..., : size[0], : size[1]]

    def encode_stream(self, chunks_B3THW: Iterable[Tensor], tiling: TilingConfig | None = None) -> Iterator[Tensor]:
        """The result of `encode` in pieces along T, from pieces of any length; memory is flat in the length."""
        return encode_stream(self, chunks_B3THW, tiling)

    def decode_stream(
        self, latent_BCTHW: Tensor, frames: int | None = None, tiling: TilingConfig | None = None
    ) -> Iterator[Tensor]:
        """The result of `decode` in pieces along T; memory beside the latent is flat in the length."""
        return decode_stream(self, latent_BCTHW, frames, tiling)

    def encode_raw(self, video_B3THW: Tensor) -> Tensor:
        """Encode without normalisation; otherwise like `encode`."""
        video_B3THW = self.checked_video(video_B3THW)
        latent_BTHWC = self.encoder(to_patches(video_B3THW, self.config.patch))
        if self.config.linear_shortcut:
            latent_BTHWC = latent_BTHWC + self.linear_encoder(to_patches(video_B3THW, self.block))
        return latent_BTHWC.permute(0, 4, 1, 2, 3)

    def decode_raw(self, latent_BCTHW: Tensor, frames: int | None = None) -> Tensor:
        """Decode latents that are not normalised; otherwise like `decode`."""
        frames = self.checked_frames(latent_BCTHW, frames)
        latent_BTHWC = latent_BCTHW.permute(0, 2, 3, 4, 1).contiguous()
        video = from_patches(self.decoder(latent_BTHWC), self.config.patch)
        if self.config.linear_shortcut:
            video = video + from_patches(self.linear_decoder(latent_BTHWC), self.block)
        return video[:, :, :frames]

    def checked_video(self, video_B3THW: Tensor) -> Tensor:
        """The video, its last row and column repeated up to multiples of the spatial factor.

        Raises:
            ValueError: not 5 axes with 3 channels.
        """
        if video_B3THW.ndim != 5 or video_B3THW.shape[1] != IN_CHANNELS or 0 in video_B3THW.shape:
            raise ValueError(f"video: need (B, 3, T, H, W), got {tuple(video_B3THW.shape)}")
        down, right = (-side % self.config.spatial_factor for side in video_B3THW.shape[-2:])
        return F.pad(video_B3THW, (0, right, 0, down, 0, 0), mode="replicate") if down or right else video_B3THW

    def checked_frames(self, latent_BCTHW: Tensor, frames: int | None) -> int:
        """`frames`, or all that the latent decodes to.

        Raises:
            ValueError: not a latent, or one of fewer frames.
        """
        if latent_BCTHW.ndim != 5 or latent_BCTHW.shape[1] != self.config.latent_channels or 0 in latent_BCTHW.shape:
            raise ValueError(
                f"latent: need (B, {self.config.latent_channels}, T, H, W), got {tuple(latent_BCTHW.shape)}"
            )
        most = latent_BCTHW.shape[2] * self.config.temporal_factor
        if frames is not None and not 1 <= frames <= most:
            raise ValueError(f"frames: {latent_BCTHW.shape[2]} latent frames decode to 1..{most} frames, not {frames}")
        return most if frames is None else frames

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """C, T, H, W of the latent of a video of a size in pixels."""
        s, t = self.config.spatial_factor, self.config.temporal_factor
        return self.config.latent_channels, math.ceil(frames / t), math.ceil(height / s), math.ceil(width / s)

    def normalise(self, raw_BCTHW: Tensor) -> Tensor:
        """Normalise latents by shift and scale."""
        return (raw_BCTHW - self._per_channel(self.shift)) / self._per_channel(self.scale)

    def denormalise(self, latent_BCTHW: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return latent_BCTHW * self._per_channel(self.scale) + self._per_channel(self.shift)

    def set_normalisation(self, shift_C: Tensor, scale_C: Tensor) -> None:
        """Set mean and standard deviation of raw latents, measured on training data."""
        self.shift.copy_(shift_C)
        self.scale.copy_(scale_C.clamp_min(1e-6))

    def _per_channel(self, values_C: Tensor) -> Tensor:
        return values_C.view(1, -1, 1, 1, 1)
