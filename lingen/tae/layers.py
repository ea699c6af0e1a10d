"""Layers of the temporal autoencoder: those of an image autoencoder, inflated in time (Movie Gen, 3.1.1).

Legend: B batch, C channels, T frames (or latent frames), H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingen.tae.config import TAEConfig


class ChannelNorm(nn.Module):
    """RMSNorm over the channels of one position."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return F.rms_norm(x_BTHWC, x_BTHWC.shape[-1:], self.weight, eps=1e-6)


class SpatialConv(nn.Module):
    """A 2-D convolution on every frame; stride 2 halves H and W, rounded up."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2)
        nn.init.normal_(self.conv.weight, std=(c_in * kernel**2) ** -0.5)  # keeps the variance; the default shrinks it
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        b, t = x_BTHWC.shape[:2]
        y = self.conv(x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, (b, t))


class TemporalConv(nn.Module):
    """A 1-D convolution over time with replicate padding, initially the identity; stride 2 halves T, rounded up."""

    def __init__(self, channels: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (3, 1), stride=(stride, 1))
        assert self.conv.bias is not None
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:, :, 1, 0] = torch.eye(channels)
            self.conv.bias.zero_()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return self.without_padding(torch.cat([x_BTHWC[:, :1], x_BTHWC, x_BTHWC[:, -1:]], dim=1))

    def without_padding(self, x_BTHWC: Tensor) -> Tensor:
        """The output for input that is padded already: (T - 3) // stride + 1 frames."""
        h = x_BTHWC.shape[2]
        y = self.conv(x_BTHWC.flatten(2, 3).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(2, (h, -1))


class Conv(nn.Sequential):
    """The inflated convolution: space, then time."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3):
        super().__init__(SpatialConv(c_in, c_out, kernel), TemporalConv(c_out))

    @torch.no_grad()
    def zero_weights(self) -> None:
        """Zero the spatial weights: the output no longer depends on the input."""
        spatial = self[0]
        assert isinstance(spatial, SpatialConv)
        spatial.conv.weight.zero_()


class ResidualBlock(nn.Module):
    """Two convolutions and a skip connection, initialised to the skip alone."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(c_in), Conv(c_in, c_out)
        self.norm2, self.conv2 = ChannelNorm(c_out), Conv(c_out, c_out)
        self.skip = nn.Linear(c_in, c_out) if c_in != c_out else nn.Identity()
        self.conv2.zero_weights()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        h_BTHWC = self.conv1(F.silu(self.norm1(x_BTHWC)))
        return self.skip(x_BTHWC) + self.conv2(F.silu(self.norm2(h_BTHWC)))


class SpatialAttention(nn.Module):
    """Self-attention within each frame, initialised to the identity."""

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
    """Self-attention over time at each position, `reach` frames either way, initialised to the identity."""

    def __init__(self, channels: int, heads: int, reach: int):
        super().__init__(channels, heads)
        self.reach = reach

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return self.attend(x_BTHWC, 0, x_BTHWC.shape[1])

    def attend(self, x_BTHWC: Tensor, first: int, stop: int) -> Tensor:
        """The output for frames `first` to `stop` alone, which attend to any of the frames given."""
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
    """Strided convolutions that halve H and W, and T too if `time`."""

    def __init__(self, channels: int, time: bool):
        super().__init__(SpatialConv(channels, channels, stride=2), TemporalConv(channels, stride=2 if time else 1))
        self.time = time


class Up(nn.Module):
    """Nearest-neighbour doubling of H and W, and T too if `time`, then the inflated convolution."""

    def __init__(self, c_in: int, c_out: int, time: bool):
        super().__init__()
        self.time = time
        self.conv = Conv(c_in, c_out)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return self.conv(self.repeat(x_BTHWC))

    def repeat(self, x_BTHWC: Tensor) -> Tensor:
        """The doubling alone."""
        x = x_BTHWC.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return x.repeat_interleave(2, 1) if self.time else x


def to_patches(video_BCTHW: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Fold patches into channels: (B, C, T, H, W) to (B, ceil(T/pt), H/ph, W/pw, C pt ph pw).

    Args:
        video_BCTHW: H and W are multiples of the patch's; the last frame is repeated to fill the last patch.
        patch: pt, ph, pw.
    """
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
