"""A public video autoencoder of diffusers in place of the TAE: Cosmos (8x8x8, like ours), Wan, HunyuanVideo, ...

These are causal: the first frame is encoded alone, and every further latent frame stands for `temporal_factor` frames,
so T frames give 1 + ceil((T - 1) / temporal_factor) latent frames. A video that does not fill the last one is padded
with its last frame, and cut to its length again when it is decoded.

Long videos go through in overlapping tiles of time, blended linearly (as Movie Gen does with its own TAE): these models
depend on all earlier frames, so a tile differs slightly from the same frames in the whole video.

Legend: B batch, C channels, T frames (or latent frames), H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingen.io.manifest import to_plain
from lingen.tae.tiling import TilingConfig

PREFIX = "diffusers:"
TILE_FRAMES, OVERLAP_FRAMES = 64, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusersConfig:
    """The autoencoder that replaces the TAE: a class of diffusers, its configuration, the geometry of its latents."""

    name: str
    """class in diffusers, such as AutoencoderKLCosmos"""
    settings: dict[str, Any]
    """arguments of the class"""
    latent_channels: int
    """channels of the latent"""
    temporal_factor: int
    """frames per latent frame after the first"""
    spatial_factor: int
    """pixels per latent position, in height and in width"""


class DiffusersTAE(nn.Module):
    """A video autoencoder of diffusers with the interface of `lingen.tae.tae.TAE`.

    Args:
        vae: the autoencoder.

    Raises:
        ValueError: the autoencoder is not for videos, or does not state how it compresses.
    """

    vae: Any  # of a class of diffusers, each with its own encode and decode
    shift: Tensor
    scale: Tensor

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.config = DiffusersConfig(
            name=type(vae).__name__,
            settings=_plain_settings(vae),
            latent_channels=_setting(vae, "latent_channels", "z_dim"),
            temporal_factor=_setting(vae, "temporal_compression_ratio", "scale_factor_temporal"),
            spatial_factor=_setting(vae, "spatial_compression_ratio", "scale_factor_spatial"),
        )
        shift, scale = _normalisation(vae, self.config.latent_channels)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        per_latent = self.config.temporal_factor
        self._tile = max(2, TILE_FRAMES // per_latent)  # latent frames of a tile, not counting its first
        self._overlap = min(self._tile, max(1, OVERLAP_FRAMES // per_latent) + 1)

    @property
    def digest(self) -> str:
        """16 hex digits over class, configuration and weights: the revision that latents are tied to."""
        h = hashlib.sha256(json.dumps(to_plain(self.config), sort_keys=True).encode())
        for name, tensor in sorted(self.vae.state_dict().items()):
            h.update(name.encode())
            h.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return h.hexdigest()[:16]

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """C, T, H, W of the latent of a video of a size in pixels."""
        c = self.config
        side = (math.ceil(height / c.spatial_factor), math.ceil(width / c.spatial_factor))
        return c.latent_channels, 1 + math.ceil((frames - 1) / c.temporal_factor), *side

    def encode(self, video_B3THW: Tensor) -> Tensor:
        """Encode videos at once.

        Args:
            video_B3THW: videos in [-1, 1].

        Returns:
            Normalised latents, of `latent_shape(T, H, W)` each.

        Raises:
            ValueError: not 5 axes with 3 channels, or diffusers returns latents of another shape.
        """
        if video_B3THW.ndim != 5 or video_B3THW.shape[1] != 3 or 0 in video_B3THW.shape:
            raise ValueError(f"video: need (B, 3, T, H, W), got {tuple(video_B3THW.shape)}")
        shape = self.latent_shape(*video_B3THW.shape[2:])
        down, right = (-side % self.config.spatial_factor for side in video_B3THW.shape[-2:])
        after = -(video_B3THW.shape[2] - 1) % self.config.temporal_factor
        if down or right or after:
            video_B3THW = F.pad(video_B3THW, (0, right, 0, down, 0, after), mode="replicate")
        latent = self.vae.encode(video_B3THW).latent_dist.mode()
        if latent.shape[1:] != shape:
            raise ValueError(
                f"--tae: {self.config.name} returns latents of {tuple(latent.shape[1:])}, its settings say {shape}"
            )
        return (latent - self._per_channel(self.shift)) / self._per_channel(self.scale)

    def decode(self, latent_BCTHW: Tensor, frames: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Decode latents at once.

        Args:
            latent_BCTHW: normalised latents.
            frames: length of the video; None: all that the latents decode to.
            size: height and width that are kept from the top left; None: all.

        Returns:
            Videos (B, 3, frames, height, width), about [-1, 1], not clamped.

        Raises:
            ValueError: not latents, or of fewer frames.
        """
        frames = self._checked_frames(latent_BCTHW, frames)
        video = self.vae.decode(latent_BCTHW * self._per_channel(self.scale) + self._per_channel(self.shift)).sample
        video = video[:, :, :frames]
        return video if size is None else video[..., : size[0], : size[1]]

    def encode_stream(self, chunks_B3THW: Iterable[Tensor], tiling: TilingConfig | None = None) -> Iterator[Tensor]:
        """The normalised latent in pieces along T, from pieces of any length; memory is flat in the length."""
        step = (self._tile + 1 - self._overlap) * self.config.temporal_factor
        length = self._tile * self.config.temporal_factor + 1
        blend = _Blend()
        kept, first = None, True
        for chunk in chunks_B3THW:
            self._tile_space(max(chunk.shape[-2:]), tiling)
            kept = chunk if kept is None else torch.cat([kept, chunk], dim=2)
            while kept.shape[2] > length:  # one more: the rest is never empty
                yield blend.add(self.encode(kept[:, :, :length]), 0 if first else self._overlap, self._overlap)
                kept, first = kept[:, :, step:].clone(), False
        if kept is not None:
            yield blend.add(self.encode(kept), 0 if first else self._overlap, 0)

    def decode_stream(
        self, latent_BCTHW: Tensor, frames: int | None = None, tiling: TilingConfig | None = None
    ) -> Iterator[Tensor]:
        """The video in pieces (B, 3, t, height, width), `frames` in all; memory beside the latent is flat."""
        left = self._checked_frames(latent_BCTHW, frames)
        self._tile_space(max(latent_BCTHW.shape[3:]) * self.config.spatial_factor, tiling)
        step, overlap = self._tile + 1 - self._overlap, (self._overlap - 1) * self.config.temporal_factor + 1
        blend, start = _Blend(), 0
        while left > 0:
            last = start + self._tile + 1 >= latent_BCTHW.shape[2]
            tile = self.decode(latent_BCTHW[:, :, start : start + self._tile + 1])
            video = blend.add(tile, overlap if start else 0, 0 if last else overlap)[:, :, :left]
            left -= video.shape[2]
            start += step
            yield video

    def _checked_frames(self, latent_BCTHW: Tensor, frames: int | None) -> int:
        c = self.config
        if latent_BCTHW.ndim != 5 or latent_BCTHW.shape[1] != c.latent_channels or 0 in latent_BCTHW.shape:
            raise ValueError(f"latent: need (B, {c.latent_channels}, T, H, W), got {tuple(latent_BCTHW.shape)}")
        most = 1 + (latent_BCTHW.shape[2] - 1) * c.temporal_factor
        if frames is not None and not 1 <= frames <= most:
            raise ValueError(f"frames: {latent_BCTHW.shape[2]} latent frames decode to 1..{most} frames, not {frames}")
        return most if frames is None else frames

    def _tile_space(self, longer_side: int, tiling: TilingConfig | None) -> None:
        """Switch on diffusers' own spatial tiles for large frames, where the class has them."""
        if longer_side > (tiling or TilingConfig()).tile and hasattr(self.vae, "use_tiling"):
            self.vae.enable_tiling()

    def _per_channel(self, values_C: Tensor) -> Tensor:
        return values_C.view(1, -1, 1, 1, 1)


class _Blend:
    """Tiles that follow each other along T, joined: the end of each fades into the start of the next."""

    def __init__(self) -> None:
        self._end: Tensor | None = None

    def add(self, tile: Tensor, before: int, after: int) -> Tensor:
        """The finished part of a tile that shares `before` frames with the last one and `after` with the next."""
        if before:
            assert self._end is not None
            # The very first frame of the tile was computed as the start of a video: it has no weight.
            weight = (torch.arange(before, device=tile.device) / before).view(1, 1, -1, 1, 1)
            count = min(before, tile.shape[2])
            mixed = self._end[:, :, :count].lerp(tile[:, :, :count], weight[:, :, :count].to(tile.dtype))
            tile = torch.cat([mixed, tile[:, :, count:]], dim=2)
        self._end = tile[:, :, tile.shape[2] - after :].clone() if after else None
        return tile[:, :, : tile.shape[2] - after]


def open_diffusers(source: str) -> DiffusersTAE:
    """Open the autoencoder at diffusers:PATH_OR_HUB_NAME, or in a subfolder of it: diffusers:PATH_OR_HUB_NAME#vae.

    Raises:
        ValueError: diffusers is not installed, or there is no video autoencoder.
    """
    name, _, subfolder = source.removeprefix(PREFIX).partition("#")
    where = {"subfolder": subfolder} if subfolder else {}
    diffusers = _diffusers()
    try:
        found = diffusers.AutoencoderKL.load_config(name, **where).get("_class_name", "")
        vae = _class(found).from_pretrained(name, use_safetensors=True, **where)
    except (OSError, TypeError) as error:
        raise ValueError(f"--tae: no autoencoder of diffusers at {name} ({' '.join(str(error).split())})") from error
    return DiffusersTAE(vae)


def build_diffusers(name: str, settings: dict[str, Any]) -> DiffusersTAE:
    """Build a class of diffusers with random weights, to load those of `save_tae` into.

    Raises:
        ValueError: diffusers is not installed, or has no such autoencoder.
    """
    return DiffusersTAE(_class(name).from_config(settings))


def _diffusers() -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise ValueError("--tae: this autoencoder needs diffusers; install it with pip install '.[vae]'") from error
    return diffusers


def _class(name: str) -> Any:
    found = getattr(_diffusers(), name, None) if name.startswith("Autoencoder") else None
    if found is None:
        raise ValueError(f"--tae: {name or 'a model without a class name'} is not an autoencoder of diffusers")
    return found


def _setting(vae: Any, *names: str) -> int:
    for name in names:
        value = getattr(vae.config, name, None) or getattr(vae, name, None)
        if value:
            return int(value)
    raise ValueError(
        f"--tae: {type(vae).__name__} has no {' or '.join(names)}; use a video autoencoder such as AutoencoderKLCosmos"
    )


def _plain_settings(vae: Any) -> dict[str, Any]:
    return {k: v for k, v in json.loads(json.dumps(dict(vae.config), default=str)).items() if not k.startswith("_")}


def _normalisation(vae: Any, channels: int) -> tuple[Tensor, Tensor]:
    """(shift, scale) per channel, from the statistics that the class publishes, or its single factor."""
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        mean, std = (getattr(vae, name, None) for name in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:  # Cosmos has a value for each of its first latent frames too
        mean, std = (torch.as_tensor(v, dtype=torch.float32) for v in (mean, std))
        return mean.view(channels, -1).mean(1), std.view(channels, -1).mean(1)
    factor = getattr(vae.config, "scaling_factor", None) or 1.0
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return torch.full((channels,), float(shift)), torch.full((channels,), 1 / float(factor))
