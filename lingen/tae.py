"""The temporal autoencoder (TAE): video to latents, 8x in time, 8x8 in space (Movie Gen, 2410.13720, 3.1.1).

An image autoencoder inflated in time: a 1-D temporal convolution after every 2-D convolution, temporal attention after
spatial attention, stride-2 convolution down and nearest + convolution up in time, replicate padding in time. The
temporal convolutions start as the identity, so an untrained TAE treats every frame as an image; a single frame is an
image throughout. Temporal attention reaches a few latent frames either way (Movie Gen bounds it by cutting videos into
tiles): so no frame depends on all others, and lingen/tae_tiling.py encodes and decodes any length piece by piece.

Normalisation is RMS over channels at each position (where Stable Diffusion's autoencoder has GroupNorm): statistics
that reach across positions would make a tile differ from the same pixels in the whole video.

Legend: B batch, C channels, T frames (or latent frames), H height, W width. Inside, tensors are BTHWC in memory: the
spatial and the temporal convolution both read that as a channels-last image without a copy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingen.manifest import read_json, to_plain, write_atomic, write_json

if TYPE_CHECKING:
    from lingen.tae_diffusers import DiffusersTAE
    from lingen.tae_tiling import TilingConfig

IN_CHANNELS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class TAEConfig:
    """Size of the autoencoder. The compression follows from the number of levels: 2x in H, W at each but the last."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    """width of each level, finest first"""
    blocks: int = 2
    """residual blocks a level in the encoder"""
    decoder_blocks: int = 3
    """residual blocks a level in the decoder"""
    latent_channels: int = 16
    """channels of the latent"""
    time_levels: int = 3
    """how many of the down-samplings also halve time, counted from the finest"""
    patch: tuple[int, int, int] = (1, 1, 1)
    """T, H, W patch folded into channels before the first convolution (LTX-Video, Cosmos); 1, 1, 1 is Movie Gen's"""
    linear_shortcut: bool = False
    """add a linear autoencoder of whole 8x8x8 blocks around the network, started from the data's principal components:
    a short training then refines transform coding instead of finding it; Movie Gen has none"""
    attention_heads: int = 1
    """heads of the two attentions at the coarsest level"""
    attention_reach: int = 4
    """latent frames before and after its own that temporal attention sees"""

    def __post_init__(self):
        if len(self.channels) < 2:
            raise ValueError(f"channels: need at least two levels, got {self.channels}")
        if not 0 <= self.time_levels < len(self.channels):
            raise ValueError(f"time_levels: must be 0 to {len(self.channels) - 1}, got {self.time_levels}")
        if self.channels[-1] % self.attention_heads:
            raise ValueError(f"attention_heads: {self.attention_heads} does not divide {self.channels[-1]} channels")
        if self.attention_reach < 0:
            raise ValueError(f"attention_reach: must not be negative, got {self.attention_reach}")

    @property
    def spatial_factor(self) -> int:
        return self.patch[1] * 2 ** (len(self.channels) - 1)

    @property
    def temporal_factor(self) -> int:
        return self.patch[0] * 2**self.time_levels


TAE_PRESETS = {
    "tae_paper": TAEConfig(),
    "tae_tiny": TAEConfig(
        channels=(32, 64, 128), blocks=1, decoder_blocks=1, time_levels=2, patch=(2, 2, 2), linear_shortcut=True
    ),
}


class ChannelNorm(nn.Module):
    """RMSNorm over the channels of one position."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return F.rms_norm(x_BTHWC, x_BTHWC.shape[-1:], self.weight, eps=1e-6)


class SpatialConv(nn.Module):
    """A 2-D convolution on every frame; stride 2 halves H and W (rounding up)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2)
        nn.init.normal_(self.conv.weight, std=(c_in * kernel**2) ** -0.5)  # keeps the variance; the default shrinks it
        nn.init.zeros_(self.conv.bias)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        b, t = x_BTHWC.shape[:2]
        y = self.conv(x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, (b, t))


class TemporalConv(nn.Module):
    """A 1-D convolution over time with replicate padding; starts as the identity; stride 2 halves T (rounding up)."""

    def __init__(self, channels: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (3, 1), stride=(stride, 1))
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:, :, 1, 0] = torch.eye(channels)
            self.conv.bias.zero_()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return self.without_padding(torch.cat([x_BTHWC[:, :1], x_BTHWC, x_BTHWC[:, -1:]], dim=1))

    def without_padding(self, x_BTHWC: Tensor) -> Tensor:
        h = x_BTHWC.shape[2]
        y = self.conv(x_BTHWC.flatten(2, 3).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(2, (h, -1))


class Conv(nn.Sequential):
    """The inflated convolution: space, then time."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3):
        super().__init__(SpatialConv(c_in, c_out, kernel), TemporalConv(c_out))


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(c_in), Conv(c_in, c_out)
        self.norm2, self.conv2 = ChannelNorm(c_out), Conv(c_out, c_out)
        self.skip = nn.Linear(c_in, c_out) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2[0].conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class SpatialAttention(nn.Module):
    """Self-attention over every frame alone; starts as the identity."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        b, t, h, w, c = x_BTHWC.shape
        qkv = self.qkv(self.norm(x_BTHWC)).reshape(b * t, h * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, h, w, c)
        return x_BTHWC + self.out(y)


class TemporalAttention(SpatialAttention):
    """Self-attention over every position alone, `reach` frames either way; starts as the identity."""

    def __init__(self, channels: int, heads: int, reach: int):
        super().__init__(channels, heads)
        self.reach = reach

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return self.some(x_BTHWC, 0, x_BTHWC.shape[1])

    def some(self, x_BTHWC: Tensor, first: int, stop: int) -> Tensor:
        """The output for frames `first` to `stop` alone; they may look at all frames given."""
        b, t, h, w, c = x_BTHWC.shape
        qkv = self.qkv(self.norm(x_BTHWC)).reshape(b, t, h * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
        mask = None
        if t > self.reach + 1:
            frame = torch.arange(t, device=x_BTHWC.device)
            mask = (frame[first:stop, None] - frame).abs() <= self.reach
        y = F.scaled_dot_product_attention(q[:, :, first:stop], k, v, attn_mask=mask)
        y = y.unflatten(0, (b, h * w)).permute(0, 3, 1, 2, 4).reshape(b, stop - first, h, w, c)
        return x_BTHWC[:, first:stop] + self.out(y)


class Middle(nn.Sequential):
    """The coarsest level: block, spatial attention, temporal attention, block."""

    def __init__(self, channels: int, config: TAEConfig):
        super().__init__(
            ResidualBlock(channels, channels),
            SpatialAttention(channels, config.attention_heads),
            TemporalAttention(channels, config.attention_heads, config.attention_reach),
            ResidualBlock(channels, channels),
        )


class Down(nn.Sequential):
    """Halve H and W, and T too when asked."""

    def __init__(self, channels: int, time: bool):
        super().__init__(SpatialConv(channels, channels, stride=2), TemporalConv(channels, stride=2 if time else 1))


class Up(nn.Module):
    """Nearest-neighbour doubling of H and W (and T when asked), then the inflated convolution."""

    def __init__(self, c_in: int, c_out: int, time: bool):
        super().__init__()
        self.time = time
        self.conv = Conv(c_in, c_out)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return self.conv(self.repeat(x_BTHWC))

    def repeat(self, x_BTHWC: Tensor) -> Tensor:
        x = x_BTHWC.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return x.repeat_interleave(2, 1) if self.time else x


class TAE(nn.Module):
    """Encoder and decoder, with the measured shift and scale that make latents zero-mean and unit-variance.

    `encode` and `decode` speak normalised latents; training uses `encode_raw` and `decode_raw`.
    """

    def __init__(self, config: TAEConfig):
        super().__init__()
        self.config = config
        widths, z = config.channels, config.latent_channels
        pixels = IN_CHANNELS * math.prod(config.patch)
        encoder = [Conv(pixels, widths[0])]
        for level, width in enumerate(widths):
            c_in = widths[max(level - 1, 0)]
            encoder += [ResidualBlock(c_in if i == 0 else width, width) for i in range(config.blocks)]
            if level < len(widths) - 1:
                encoder.append(Down(width, time=level < config.time_levels))
        # No norm before the last convolutions: per-position norms would take the amplitude that they must put out.
        encoder += [Middle(widths[-1], config), Conv(widths[-1], z)]
        decoder = [Conv(z, widths[-1]), Middle(widths[-1], config)]
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
        """Set the linear shortcut to the best linear autoencoder of these videos (Baldi and Hornik 1989).

        The network's last layers are zeroed: before the first step the TAE is exactly that linear autoencoder, with
        latents of unit variance.
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
            nn.init.zeros_(conv[0].conv.weight)

    @property
    def digest(self) -> str:
        """16 hex digits over configuration, weights, shift and scale: the revision that latents are tied to."""
        h = hashlib.sha256(repr(to_plain(self.config)).encode())
        for name, tensor in sorted(self.state_dict().items()):
            h.update(name.encode())
            h.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return h.hexdigest()[:16]

    def encode(self, video_B3THW: Tensor) -> Tensor:
        """Video in [-1, 1] to normalised latents (B, C, ceil(T/8), ceil(H/8), ceil(W/8)), all at once.

        Raises:
            ValueError: not 5 axes with 3 channels.
        """
        return self.normalise(self.encode_raw(video_B3THW))

    def decode(self, latent_BCTHW: Tensor, frames: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Normalised latents to video (B, 3, frames, 8H, 8W), about [-1, 1] (not clamped), all at once.

        `frames` of at most 8 T are kept from the front (an image: 1), and `size` (H, W) from the top left; by default
        all.
        """
        video = self.decode_raw(self.denormalise(latent_BCTHW), frames)
        return video if size is None else video[..., : size[0], : size[1]]

    def encode_stream(self, chunks_B3THW: Iterable[Tensor], tiling: TilingConfig | None = None) -> Iterator[Tensor]:
        """What `encode` gives, piece by piece along T, from pieces of any length; memory is flat in the length."""
        from lingen.tae_tiling import encode_stream

        return encode_stream(self, chunks_B3THW, tiling)

    def decode_stream(
        self, latent_BCTHW: Tensor, frames: int | None = None, tiling: TilingConfig | None = None
    ) -> Iterator[Tensor]:
        """What `decode` gives, piece by piece along T; memory beside the latent is flat in the length."""
        from lingen.tae_tiling import decode_stream

        return decode_stream(self, latent_BCTHW, frames, tiling)

    def encode_raw(self, video_B3THW: Tensor) -> Tensor:
        video_B3THW = self.checked_video(video_B3THW)
        latent_BTHWC = self.encoder(to_patches(video_B3THW, self.config.patch))
        if self.config.linear_shortcut:
            latent_BTHWC = latent_BTHWC + self.linear_encoder(to_patches(video_B3THW, self.block))
        return latent_BTHWC.permute(0, 4, 1, 2, 3)

    def decode_raw(self, latent_BCTHW: Tensor, frames: int | None = None) -> Tensor:
        frames = self.checked_frames(latent_BCTHW, frames)
        latent_BTHWC = latent_BCTHW.permute(0, 2, 3, 4, 1).contiguous()
        video = from_patches(self.decoder(latent_BTHWC), self.config.patch)
        if self.config.linear_shortcut:
            video = video + from_patches(self.linear_decoder(latent_BTHWC), self.block)
        return video[:, :, :frames]

    def checked_video(self, video_B3THW: Tensor) -> Tensor:
        """The video, its last row and column repeated up to multiples of the spatial factor. ValueError: no video."""
        if video_B3THW.ndim != 5 or video_B3THW.shape[1] != IN_CHANNELS or 0 in video_B3THW.shape:
            raise ValueError(f"video: need (B, 3, T, H, W), got {tuple(video_B3THW.shape)}")
        down, right = (-side % self.config.spatial_factor for side in video_B3THW.shape[-2:])
        return F.pad(video_B3THW, (0, right, 0, down, 0, 0), mode="replicate") if down or right else video_B3THW

    def checked_frames(self, latent_BCTHW: Tensor, frames: int | None) -> int:
        """`frames`, or all that the latent decodes to. ValueError: no latent, or one of fewer frames."""
        if latent_BCTHW.ndim != 5 or latent_BCTHW.shape[1] != self.config.latent_channels or 0 in latent_BCTHW.shape:
            raise ValueError(
                f"latent: need (B, {self.config.latent_channels}, T, H, W), got {tuple(latent_BCTHW.shape)}"
            )
        most = latent_BCTHW.shape[2] * self.config.temporal_factor
        if frames is not None and not 1 <= frames <= most:
            raise ValueError(f"frames: {latent_BCTHW.shape[2]} latent frames decode to 1..{most} frames, not {frames}")
        return most if frames is None else frames

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the latent of a video of that size."""
        s, t = self.config.spatial_factor, self.config.temporal_factor
        return self.config.latent_channels, math.ceil(frames / t), math.ceil(height / s), math.ceil(width / s)

    def normalise(self, raw_BCTHW: Tensor) -> Tensor:
        return (raw_BCTHW - self._per_channel(self.shift)) / self._per_channel(self.scale)

    def denormalise(self, latent_BCTHW: Tensor) -> Tensor:
        return latent_BCTHW * self._per_channel(self.scale) + self._per_channel(self.shift)

    def set_normalisation(self, shift_C: Tensor, scale_C: Tensor) -> None:
        """Mean and standard deviation of raw latents, measured on training data."""
        self.shift.copy_(shift_C)
        self.scale.copy_(scale_C.clamp_min(1e-6))

    def _per_channel(self, values_C: Tensor) -> Tensor:
        return values_C.view(1, -1, 1, 1, 1)


def to_patches(video_BCTHW: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(B, C, T, H, W) to (B, T/pt, H/ph, W/pw, C pt ph pw); the last frame is repeated to fill the last patch."""
    b, c, t, h, w = video_BCTHW.shape
    pt, ph, pw = patch
    if t % pt:
        video_BCTHW = torch.cat([video_BCTHW] + [video_BCTHW[:, :, -1:]] * (pt - t % pt), dim=2)
    x = video_BCTHW.reshape(b, c, -1, pt, h // ph, ph, w // pw, pw)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def from_patches(x_BTHWC: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """The inverse of `to_patches`."""
    x = x_BTHWC.unflatten(-1, (-1, *patch))
    return x.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def save_tae(tae: TAE | DiffusersTAE, folder: str | Path) -> None:
    """Write tae.safetensors and tae.json (configuration and digest) into a folder; also for one from diffusers."""
    from safetensors.torch import save

    folder = Path(folder)
    tensors = {name: t.detach().cpu().contiguous() for name, t in tae.state_dict().items()}
    write_atomic(folder / "tae.safetensors", save(tensors))
    kind = "tae" if isinstance(tae, TAE) else "diffusers"
    write_json(folder / "tae.json", {"kind": kind, "config": tae.config, "digest": tae.digest})


def load_tae(source: str | Path) -> TAE | DiffusersTAE:
    """Read what `save_tae` wrote, or open diffusers:PATH_OR_HUB_NAME[#subfolder]; evaluation mode, no gradients.

    Raises:
        ValueError: there is no TAE, or its weights do not fit its configuration.
    """
    from safetensors.torch import load_file

    if str(source).startswith("diffusers:"):
        from lingen.tae_diffusers import open_diffusers

        return open_diffusers(str(source))
    folder = Path(source)
    if not (folder / "tae.json").is_file() or not (folder / "tae.safetensors").is_file():
        raise ValueError(
            f"--tae: {folder} holds no TAE (tae.json, tae.safetensors); name a folder of jobs/train_tae.py"
        )
    about = read_json(folder / "tae.json")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items()}
    if about.get("kind") == "diffusers":
        from lingen.tae_diffusers import build_diffusers

        tae = build_diffusers(fields["name"], fields["settings"])
    else:
        tae = TAE(TAEConfig(**fields))
    try:
        tae.load_state_dict(load_file(folder / "tae.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"--tae: the weights in {folder} do not fit its tae.json: {error}") from error
    return tae.eval().requires_grad_(False)
