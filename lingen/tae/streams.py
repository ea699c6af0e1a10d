"""The TAE's layers as streams over time, with the numbers of the whole video at once and memory flat in its length.

Every temporal operation of the TAE depends on a fixed number of frames before and after. So each stream keeps the few
frames that it still needs and emits what is complete: nothing is computed twice, and there is nothing to blend (Movie
Gen overlaps tiles of 32 frames by half and blends them linearly).

Legend: B batch, T frames of this piece, H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import singledispatch

import torch
from torch import Tensor, nn

from lingen.tae.layers import (
    Conv,
    Down,
    Middle,
    ResidualBlock,
    TemporalAttention,
    TemporalConv,
    Up,
    to_patches,
)

Stream = Callable[[Tensor, bool], Tensor | None]
"""(x_BTHWC, last) -> the output that is complete by now, or None. A piece marked `last` is never empty, and its output
is not either."""


@singledispatch
def stream(module: nn.Module) -> Stream:
    """The stream of a module; for most, which see every frame alone, the module itself."""
    return lambda x, last: module(x)


def chain(modules: Iterable[nn.Module], frames: int) -> Chain:
    """The chain of modules of which the first is given at most `frames` frames at once, the others as many in time."""
    streams: list[Stream] = []
    limits: list[int | None] = []
    for module in modules:
        streams.append(stream(module))
        limits.append(frames)
        if isinstance(module, Up) and module.time:
            frames *= 2
        elif isinstance(module, Down) and module.time:
            frames = math.ceil(frames / 2)
    return Chain(streams, limits)


class Chain:
    """One stream after the other.

    Args:
        streams: in order.
        limits: how many frames each stream may be given at once; None: no limit. At the end of a video all streams
            emit what they kept: without limits the last piece would grow from stream to stream.
    """

    def __init__(self, streams: Iterable[Stream], limits: Iterable[int | None] = ()):
        self._streams = list(streams)
        self._limits = list(limits) or [None] * len(self._streams)

    def __call__(self, x_BTHWC: Tensor, last: bool) -> Tensor | None:
        parts = list(self._push(0, x_BTHWC, last))
        return torch.cat(parts, dim=1) if len(parts) > 1 else (parts[0] if parts else None)

    def _push(self, at: int, x: Tensor, last: bool) -> Iterator[Tensor]:
        if at == len(self._streams):
            yield x
            return
        limit = self._limits[at]
        pieces = x.split(limit, dim=1) if limit else [x]
        for i, piece in enumerate(pieces):
            ended = last and i == len(pieces) - 1
            y = self._streams[at](piece, ended)
            if y is not None:
                yield from self._push(at + 1, y, ended)


class Sum:
    """Two streams of the same input, added frame by frame; the one that is ahead waits.

    Args:
        one: the first summand.
        other: the second summand.
    """

    def __init__(self, one: Stream, other: Stream):
        self._streams = (one, other)
        self._waiting: list[Tensor | None] = [None, None]

    def __call__(self, x_BTHWC: Tensor, last: bool) -> Tensor | None:
        for i, summand in enumerate(self._streams):
            self._waiting[i] = _join(self._waiting[i], summand(x_BTHWC, last))
        one, other = self._waiting
        if one is None or other is None:
            return None
        ready = min(one.shape[1], other.shape[1])
        self._waiting = [_frames_from(one, ready), _frames_from(other, ready)]
        return one[:, :ready] + other[:, :ready]


class Patches:
    """Video (B, T, H, W, 3) to patches; the last frame is repeated to fill the last patch.

    Args:
        patch: T, H, W pixels of a patch.
    """

    def __init__(self, patch: tuple[int, int, int]):
        self._patch = patch
        self._kept: Tensor | None = None

    def __call__(self, video_BTHW3: Tensor, last: bool) -> Tensor | None:
        x = video_BTHW3 if self._kept is None else torch.cat([self._kept, video_BTHW3], dim=1)
        ready = x.shape[1] if last else x.shape[1] - x.shape[1] % self._patch[0]
        self._kept = _frames_from(x, ready)
        return to_patches(x[:, :ready].permute(0, 4, 1, 2, 3), self._patch) if ready else None


class _TemporalConv:
    """Keeps the frames that its next output needs."""

    def __init__(self, module: TemporalConv):
        self._module, self._stride = module, module.conv.stride[0]
        self._kept: Tensor | None = None

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        parts = [x[:, :1] if self._kept is None else self._kept, x, *([x[:, -1:]] if last else [])]
        x = torch.cat(parts, dim=1)
        ready = max(0, (x.shape[1] - 3) // self._stride + 1)
        self._kept = _frames_from(x, ready * self._stride)
        return self._module.without_padding(x[:, : (ready - 1) * self._stride + 3]) if ready else None


class _TemporalAttention:
    """Keeps `reach` frames that were emitted, for those that follow, and those whose future has not come yet."""

    def __init__(self, module: TemporalAttention):
        self._module = module
        self._kept: Tensor | None = None
        self._emitted = 0  # of the kept frames

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        x = x if self._kept is None else torch.cat([self._kept, x], dim=1)
        first, ready = self._emitted, x.shape[1] - (0 if last else self._module.reach)
        if ready <= first:
            self._kept = x
            return None
        drop = max(0, ready - self._module.reach)
        self._kept, self._emitted = _frames_from(x, drop), ready - drop
        return self._module.attend(x, first, ready)


class _Residual(Sum):
    def __init__(self, block: ResidualBlock):
        h = [_silu(block.norm1), stream(block.conv1), _silu(block.norm2), stream(block.conv2)]
        super().__init__(stream(block.skip), Chain(h))


def _silu(norm: nn.Module) -> Stream:
    return lambda x, last: nn.functional.silu(norm(x))


stream.register(TemporalConv, _TemporalConv)
stream.register(TemporalAttention, _TemporalAttention)
stream.register(ResidualBlock, _Residual)


@stream.register(Conv)
@stream.register(Down)
@stream.register(Middle)
def _(module: nn.Sequential) -> Stream:
    return Chain(map(stream, module))


@stream.register(Up)
def _(module: Up) -> Stream:
    return Chain([lambda x, last: module.repeat(x), stream(module.conv)])


def rebatch(chunks_B3THW: Iterable[Tensor], frames: int) -> Iterator[tuple[Tensor, bool]]:
    """Cut a video given in pieces of any length into pieces of `frames`: (x_BTHW3, whether it is the last)."""

    def pieces() -> Iterator[Tensor]:
        kept = None
        for chunk in chunks_B3THW:
            kept = _join(kept, chunk.permute(0, 2, 3, 4, 1))
            while kept is not None and kept.shape[1] >= frames:
                yield kept[:, :frames]
                kept = _frames_from(kept, frames)
        if kept is not None:
            yield kept

    return with_last(pieces())


def with_last(items: Iterator[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Every item, and whether it is the last."""
    held = next(items, None)
    if held is None:
        return
    for item in items:
        yield held, False
        held = item
    yield held, True


def _join(kept: Tensor | None, x: Tensor | None) -> Tensor | None:
    if kept is None or x is None:
        return x if kept is None else kept
    return torch.cat([kept, x], dim=1)


def _frames_from(x: Tensor, start: int) -> Tensor | None:
    """The frames from `start` on, copied so that they do not hold the others in memory; None when there are none."""
    return x[:, start:].clone() if start < x.shape[1] else None
