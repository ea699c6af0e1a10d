"""Encode and decode piece by piece and tile by tile, with the numbers of the whole video at once.

In time the TAE's layers run as streams (lingen/tae/streams.py): memory is flat in the length.

In space larger frames are cut into tiles. Each goes through the fine levels with a border as wide as their receptive
field, which is cut off afterwards: equal numbers again, without blends. The coarsest level, where attention spans the
whole frame, runs on whole frames. Tiles bound the memory at work on one piece; the frames kept between pieces cover the
whole picture.

Legend: B batch, C channels, T frames of this piece, H height, W width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

from lingen.tae.config import TAEConfig
from lingen.tae.layers import Down, SpatialConv, Up, from_patches
from lingen.tae.streams import Chain, Patches, Stream, Sum, chain, rebatch, stream, with_last


@dataclasses.dataclass(frozen=True, kw_only=True)
class TilingConfig:
    """How videos go through the TAE piece by piece. Decides memory and speed, not the result."""

    frames: int = 16
    """frames that go through at once"""
    tile: int = 768
    """side of a tile in pixels, without its border; larger frames are cut into tiles"""

    def __post_init__(self) -> None:
        for name in ("frames", "tile"):
            if getattr(self, name) < 1:
                raise ValueError(f"tiling.{name}: must be at least 1, got {getattr(self, name)}")


class Streamable(Protocol):
    """What streaming needs of an autoencoder: its layers in order, and the pixels behind a latent position."""

    config: TAEConfig
    encoder: nn.Sequential
    decoder: nn.Sequential
    linear_encoder: nn.Linear
    linear_decoder: nn.Linear

    @property
    def block(self) -> tuple[int, int, int]: ...

    def checked_video(self, video_B3THW: Tensor) -> Tensor: ...

    def checked_frames(self, latent_BCTHW: Tensor, frames: int | None) -> int: ...

    def normalise(self, raw_BCTHW: Tensor) -> Tensor: ...

    def denormalise(self, latent_BCTHW: Tensor) -> Tensor: ...


def encode_stream(
    tae: Streamable, chunks_B3THW: Iterable[Tensor], tiling: TilingConfig | None = None
) -> Iterator[Tensor]:
    """Encode a video piece by piece.

    Args:
        tae: the autoencoder.
        chunks_B3THW: pieces of a video in [-1, 1], of any lengths.
        tiling: how much goes through at once.

    Returns:
        Pieces of the normalised latent (B, C, t, H/8, W/8).

    Raises:
        ValueError: a piece is not a video.
    """
    tiling = tiling or TilingConfig()
    cut = max(i for i, module in enumerate(tae.encoder) if isinstance(module, Down)) + 1
    side = tae.config.spatial_factor // tae.config.patch[1]  # fine positions behind a coarse one
    tile = max(1, tiling.tile // tae.config.spatial_factor)
    fine = math.ceil(tiling.frames / tae.config.patch[0])
    coarse = math.ceil(tiling.frames / tae.config.temporal_factor)
    tiled = _Tiles(list(tae.encoder[:cut]), fine, tile=tile, scale_in=side, scale_out=1)
    push: Stream = Chain([Patches(tae.config.patch), tiled, chain(tae.encoder[cut:], coarse)])
    if tae.config.linear_shortcut:
        push = Sum(push, Chain([Patches(tae.block), stream(tae.linear_encoder)]))
    for chunk, last in rebatch(map(tae.checked_video, chunks_B3THW), tiling.frames):
        latent_BTHWC = push(chunk, last)
        if latent_BTHWC is not None:
            yield tae.normalise(latent_BTHWC.permute(0, 4, 1, 2, 3))


def decode_stream(
    tae: Streamable, latent_BCTHW: Tensor, frames: int | None = None, tiling: TilingConfig | None = None
) -> Iterator[Tensor]:
    """Decode a latent piece by piece.

    Args:
        tae: the autoencoder.
        latent_BCTHW: a normalised latent.
        frames: length of the video; None: all that the latent decodes to.
        tiling: how much goes through at once.

    Returns:
        Pieces of the video (B, 3, t, 8H, 8W), about [-1, 1].

    Raises:
        ValueError: not a latent, or one with fewer frames.
    """
    left = tae.checked_frames(latent_BCTHW, frames)
    tiling = tiling or TilingConfig()
    cut = min(i for i, module in enumerate(tae.decoder) if isinstance(module, Up))
    side = tae.config.spatial_factor // tae.config.patch[1]
    tile = max(1, tiling.tile // tae.config.spatial_factor)
    coarse = max(1, tiling.frames // tae.config.temporal_factor)
    tiled = _Tiles(list(tae.decoder[cut:]), coarse, tile=tile, scale_in=1, scale_out=side)
    push: Stream = Chain([chain(tae.decoder[:cut], coarse), tiled, lambda x, last: _to_video(x, tae.config.patch)])
    if tae.config.linear_shortcut:
        push = Sum(push, lambda x, last: _to_video(tae.linear_decoder(x), tae.block))
    for piece, last in with_last(iter(latent_BCTHW.split(coarse, dim=2))):
        video_BTHW3 = push(tae.denormalise(piece).permute(0, 2, 3, 4, 1).contiguous(), last)
        if video_BTHW3 is not None and left > 0:
            yield video_BTHW3[:, :left].permute(0, 4, 1, 2, 3)
            left -= video_BTHW3.shape[1]


class _Tiles:
    """Modules without attention, tile by tile; sizes and borders are in positions of the coarsest level."""

    def __init__(self, modules: Sequence[nn.Module], frames: int, tile: int, scale_in: int, scale_out: int):
        self._modules, self._frames, self._tile = modules, frames, tile
        self._in, self._out = scale_in, scale_out
        self._border = math.ceil(_receptive_radius(modules) / scale_in)
        self._streams: dict[tuple[int, int], Stream] = {}

    def __call__(self, x_BTHWC: Tensor, last: bool) -> Tensor | None:
        height, width = x_BTHWC.shape[2] // self._in, x_BTHWC.shape[3] // self._in
        out = None
        for top, bottom, first_y, stop_y in self._cuts(height):
            for left, right, first_x, stop_x in self._cuts(width):
                if (top, left) not in self._streams:
                    self._streams[top, left] = chain(self._modules, self._frames)
                i, o = self._in, self._out
                part = self._streams[top, left](x_BTHWC[:, :, first_y * i : stop_y * i, first_x * i : stop_x * i], last)
                if part is None:
                    continue
                part = part[:, :, (top - first_y) * o : (bottom - first_y) * o]
                part = part[:, :, :, (left - first_x) * o : (right - first_x) * o]
                if part.shape[2:4] == (height * o, width * o):
                    return part
                if out is None:
                    out = part.new_empty(*part.shape[:2], height * o, width * o, part.shape[-1])
                out[:, :, top * o : bottom * o, left * o : right * o] = part
        return out

    def _cuts(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """(start, stop, start with border, stop with border) of equal tiles along an axis."""
        count = math.ceil(length / self._tile)
        for i in range(count):
            start, stop = length * i // count, length * (i + 1) // count
            yield start, stop, max(0, start - self._border), min(length, stop + self._border)


def _receptive_radius(modules: Iterable[nn.Module]) -> int:
    """How many input positions on either side an output position of a chain depends on."""
    radius = 0
    steps = [step for module in modules for step in _spatial_steps(module)]
    for step in reversed(steps):
        if isinstance(step, Up):
            radius = math.ceil(radius / 2)
        else:
            radius = radius * step.conv.stride[0] + step.conv.kernel_size[0] // 2
    return radius


def _spatial_steps(module: nn.Module) -> Iterator[SpatialConv | Up]:
    """The spatial convolutions of a module and the doubling of an Up, in order."""
    if isinstance(module, (SpatialConv, Up)):
        yield module
    for child in module.children():
        yield from _spatial_steps(child)


def _to_video(x_BTHWC: Tensor, patch: tuple[int, int, int]) -> Tensor:
    return from_patches(x_BTHWC, patch).permute(0, 2, 3, 4, 1)
