"""Encode and decode piece by piece, with the numbers of the whole video at once and memory flat in its length.

In time: every temporal operation of the TAE looks a fixed number of frames back and ahead. So each keeps the few frames
that it still needs and gives out what is complete: nothing is computed twice, and there is nothing to blend (Movie Gen
overlaps tiles of 32 frames by half and blends them linearly).

In space: larger frames are cut into tiles. Each goes through the fine levels with a border as wide as their receptive
field, which is cut off afterwards: equal again, without blends. The coarsest level, where attention spans the whole
frame, runs on whole frames. Tiles bound what one piece needs at work; the frames kept between pieces cover the picture.

Legend: B batch, C channels, T frames of this piece, H height, W width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import singledispatch
from typing import Protocol

import torch
from torch import Tensor, nn

from lingen.tae.config import TAEConfig
from lingen.tae.layers import (
    Conv,
    Down,
    Middle,
    ResidualBlock,
    SpatialConv,
    TemporalAttention,
    TemporalConv,
    Up,
    from_patches,
    to_patches,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TilingConfig:
    """How videos go through the TAE piece by piece. Decides memory and speed, not the result."""

    frames: int = 16
    """frames that go through at once"""
    tile: int = 768
    """pixels of a tile's side without its border; larger frames are cut into tiles"""

    def __post_init__(self):
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
    """Pieces of a video in [-1, 1], of any lengths, to pieces of its normalised latent (B, C, t, H/8, W/8).

    Raises:
        ValueError: a piece that is no video.
    """
    tiling = tiling or TilingConfig()
    cut = max(i for i, module in enumerate(tae.encoder) if isinstance(module, Down)) + 1
    side = tae.config.spatial_factor // tae.config.patch[1]  # fine positions behind a coarse one
    tile = max(1, tiling.tile // tae.config.spatial_factor)
    fine = math.ceil(tiling.frames / tae.config.patch[0])
    coarse = math.ceil(tiling.frames / tae.config.temporal_factor)
    tiled = _Tiles(tae.encoder[:cut], fine, tile=tile, scale_in=side, scale_out=1)
    push = _Chain([_Patches(tae.config.patch), tiled, _chain(tae.encoder[cut:], coarse)])
    if tae.config.linear_shortcut:
        push = _Sum(push, _Chain([_Patches(tae.block), _stream(tae.linear_encoder)]))
    for chunk, last in _rebatched(map(tae.checked_video, chunks_B3THW), tiling.frames):
        latent_BTHWC = push(chunk, last)
        if latent_BTHWC is not None:
            yield tae.normalise(latent_BTHWC.permute(0, 4, 1, 2, 3))


def decode_stream(
    tae: Streamable, latent_BCTHW: Tensor, frames: int | None = None, tiling: TilingConfig | None = None
) -> Iterator[Tensor]:
    """A normalised latent to pieces of its video (B, 3, t, 8H, 8W), `frames` of them in all (default: all).

    Raises:
        ValueError: no latent, or one with fewer frames.
    """
    left = tae.checked_frames(latent_BCTHW, frames)
    tiling = tiling or TilingConfig()
    cut = min(i for i, module in enumerate(tae.decoder) if isinstance(module, Up))
    side = tae.config.spatial_factor // tae.config.patch[1]
    tile = max(1, tiling.tile // tae.config.spatial_factor)
    coarse = max(1, tiling.frames // tae.config.temporal_factor)
    tiled = _Tiles(tae.decoder[cut:], coarse, tile=tile, scale_in=1, scale_out=side)
    push = _Chain([_chain(tae.decoder[:cut], coarse), tiled, lambda x, last: _to_video(x, tae.config.patch)])
    if tae.config.linear_shortcut:
        push = _Sum(push, lambda x, last: _to_video(tae.linear_decoder(x), tae.block))
    for piece, last in _with_last(iter(latent_BCTHW.split(coarse, dim=2))):
        video_BTHW3 = push(tae.denormalise(piece).permute(0, 2, 3, 4, 1).contiguous(), last)
        if video_BTHW3 is not None and left > 0:
            yield video_BTHW3[:, :left].permute(0, 4, 1, 2, 3)
            left -= video_BTHW3.shape[1]


# Streams: functions (x_BTHWC, last) -> the output that is complete by now, or None. A piece marked `last` is never
# empty, and its output is not either.
Stream = Callable[[Tensor, bool], Tensor | None]


@singledispatch
def _stream(module: nn.Module) -> Stream:
    """The stream of a module; of most, which look at every frame alone, the module itself."""
    return lambda x, last: module(x)


class _Chain:
    """One stream after the other.

    Args: limits, how many frames each stream may be given at once. At the end of a video all streams give out what they
    kept: without limits, the last piece would grow from stream to stream.
    """

    def __init__(self, streams: Iterable[Stream], limits: Iterable[int] = ()):
        self._streams = list(streams)
        self._limits = list(limits) or [None] * len(self._streams)

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        parts = list(self._push(0, x, last))
        return torch.cat(parts, dim=1) if len(parts) > 1 else (parts[0] if parts else None)

    def _push(self, at: int, x: Tensor, last: bool) -> Iterator[Tensor]:
        if at == len(self._streams):
            yield x
            return
        pieces = x.split(self._limits[at], dim=1) if self._limits[at] else [x]
        for i, piece in enumerate(pieces):
            ended = last and i == len(pieces) - 1
            y = self._streams[at](piece, ended)
            if y is not None:
                yield from self._push(at + 1, y, ended)


def _chain(modules: Iterable[nn.Module], frames: int) -> _Chain:
    """The chain of modules that are given `frames` frames at once."""
    limits = []
    for module in modules:
        limits.append(frames)
        if isinstance(module, Up) and module.time:
            frames *= 2
        elif isinstance(module, Down) and module[1].conv.stride[0] == 2:
            frames = math.ceil(frames / 2)
    return _Chain(map(_stream, modules), limits)


class _Sum:
    """Two streams of the same input, added frame by frame; whichever is ahead waits."""

    def __init__(self, one: Stream, other: Stream):
        self._streams, self._waiting = (one, other), [None, None]

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        for i, stream in enumerate(self._streams):
            self._waiting[i] = _join(self._waiting[i], stream(x, last))
        one, other = self._waiting
        ready = min(0 if part is None else part.shape[1] for part in self._waiting)
        if not ready:
            return None
        self._waiting = [_rest(one, ready), _rest(other, ready)]
        return one[:, :ready] + other[:, :ready]


class _TemporalConv:
    """Keeps the frames that its next output needs."""

    def __init__(self, module: TemporalConv):
        self._module, self._stride, self._kept = module, module.conv.stride[0], None

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        parts = [x[:, :1] if self._kept is None else self._kept, x, *([x[:, -1:]] if last else [])]
        x = torch.cat(parts, dim=1)
        ready = max(0, (x.shape[1] - 3) // self._stride + 1)
        self._kept = _rest(x, ready * self._stride)
        return self._module.without_padding(x[:, : (ready - 1) * self._stride + 3]) if ready else None


class _TemporalAttention:
    """Keeps `reach` frames that were given out, for those that follow, and those whose future has not come yet."""

    def __init__(self, module: TemporalAttention):
        self._module, self._kept, self._done = module, None, 0

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        x = _join(self._kept, x)
        first, ready = self._done, x.shape[1] - (0 if last else self._module.reach)
        if ready <= first:
            self._kept = x
            return None
        drop = max(0, ready - self._module.reach)
        self._kept, self._done = _rest(x, drop), ready - drop
        return self._module.some(x, first, ready)


class _Patches:
    """Video (B, T, H, W, 3) to patches; the last frame fills the last patch."""

    def __init__(self, patch: tuple[int, int, int]):
        self._patch, self._kept = patch, None

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        x = _join(self._kept, x)
        ready = x.shape[1] if last else x.shape[1] - x.shape[1] % self._patch[0]
        self._kept = _rest(x, ready)
        return to_patches(x[:, :ready].permute(0, 4, 1, 2, 3), self._patch) if ready else None


class _Tiles:
    """Modules without attention, tile by tile; sizes and borders are in positions of the coarsest level."""

    def __init__(self, modules: Sequence[nn.Module], frames: int, tile: int, scale_in: int, scale_out: int):
        self._modules, self._frames, self._tile = modules, frames, tile
        self._in, self._out = scale_in, scale_out
        self._border = math.ceil(_receptive_radius(modules) / scale_in)
        self._streams: dict[tuple[int, int], Stream] = {}

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        height, width = x.shape[2] // self._in, x.shape[3] // self._in
        out = None
        for top, bottom, first_y, stop_y in self._cuts(height):
            for left, right, first_x, stop_x in self._cuts(width):
                if (top, left) not in self._streams:
                    self._streams[top, left] = _chain(self._modules, self._frames)
                i, o = self._in, self._out
                part = x[:, :, first_y * i : stop_y * i, first_x * i : stop_x * i]
                part = self._streams[top, left](part, last)
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


class _Residual(_Sum):
    def __init__(self, block: ResidualBlock):
        h = [_silu(block.norm1), _stream(block.conv1), _silu(block.norm2), _stream(block.conv2)]
        super().__init__(_stream(block.skip), _Chain(h))


def _silu(norm: nn.Module) -> Stream:
    return lambda x, last: nn.functional.silu(norm(x))


_stream.register(TemporalConv, _TemporalConv)
_stream.register(TemporalAttention, _TemporalAttention)
_stream.register(ResidualBlock, _Residual)


@_stream.register(Conv)
@_stream.register(Down)
@_stream.register(Middle)
def _(module: nn.Sequential) -> Stream:
    return _Chain(map(_stream, module))


@_stream.register(Up)
def _(module: Up) -> Stream:
    return _Chain([lambda x, last: module.repeat(x), _stream(module.conv)])


def _receptive_radius(modules: Iterable[nn.Module]) -> int:
    """How many input positions beside its own an output position of a chain sees."""
    radius = 0
    steps = [step for module in modules for step in _spatial_steps(module)]
    for step in reversed(steps):
        if isinstance(step, Up):
            radius = math.ceil(radius / 2)
        else:
            radius = radius * step.conv.stride[0] + step.conv.kernel_size[0] // 2
    return radius


def _spatial_steps(module: nn.Module) -> Iterator[nn.Module]:
    """The spatial convolutions of a module and the doubling of an Up, in order."""
    if isinstance(module, (SpatialConv, Up)):
        yield module
    for child in module.children():
        yield from _spatial_steps(child)


def _to_video(x_BTHWC: Tensor, patch: tuple[int, int, int]) -> Tensor:
    return from_patches(x_BTHWC, patch).permute(0, 2, 3, 4, 1)


def _join(kept: Tensor | None, x: Tensor | None) -> Tensor | None:
    if kept is None or x is None:
        return x if kept is None else kept
    return torch.cat([kept, x], dim=1)


def _rest(x: Tensor, start: int) -> Tensor | None:
    """The frames from `start` on as a tensor of their own, which does not hold the others in memory."""
    return x[:, start:].clone() if start < x.shape[1] else None


def _rebatched(chunks_B3THW: Iterable[Tensor], frames: int) -> Iterator[tuple[Tensor, bool]]:
    """The same frames in pieces of `frames`, (B, T, H, W, 3), and which is the last."""

    def pieces() -> Iterator[Tensor]:
        kept = None
        for chunk in chunks_B3THW:
            kept = _join(kept, chunk.permute(0, 2, 3, 4, 1))
            while kept is not None and kept.shape[1] >= frames:
                yield kept[:, :frames]
                kept = _rest(kept, frames)
        if kept is not None:
            yield kept

    return _with_last(pieces())


def _with_last(items: Iterator[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    held = next(items, None)
    for item in items:
        yield held, False
        held = item
    if held is not None:
        yield held, True
