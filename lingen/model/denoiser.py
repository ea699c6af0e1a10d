"""The LinGen denoiser: from noisy latents, a time and text to a velocity (SUP E.1; project page; notes/paper.md).

Letters: B batch, T/H/W time, height and width (latent cells up to the patch embedding, tokens after it), C latent
channels, F values of one patch, L text tokens, D width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lingen.model.attention import CrossAttention, SelfAttention, check_attention_backend
from lingen.model.conditioning import AdaLN, Text, TextProjection, TimestepEmbedding
from lingen.model.ffn import SwiGLU, hidden_width
from lingen.model.mamba1 import BidirectionalMamba1
from lingen.model.mamba2 import BidirectionalMamba2
from lingen.model.mate import MATE, MABranch
from lingen.model.norms import RMSNorm, modulate
from lingen.model.positions import FactorizedPositions
from lingen.model.review import review_grid
from lingen.model.scans import SCANS, ScanOrder, scan_orders
from lingen.model.tesa import TESA
from lingen.ssd import check_backend


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """The architecture. Each row of the paper's ablation table is one field."""

    latent_channels: int = 16
    """Channels of the TAE's latents."""
    patch: tuple[int, int, int] = (1, 2, 2)
    """Latent cells (T, H, W) in one token: the paper's 2x2x1 patchify."""
    text_dims: tuple[int, ...] = (1024,)
    """Embedding width of each text encoder, in the order of their outputs."""
    width: int = 2560
    """Token width D."""
    depth: int = 32
    """Number of layers."""
    heads: int = 20
    """Attention heads, in TESA, in cross-attention and in full self-attention."""
    mixer: Literal["mate", "attention"] = "mate"
    """mate: LinGen. attention: full self-attention instead, the DiT baseline."""
    ma_branch: Literal["mamba2", "mamba1", "none"] = "mamba2"
    """The global branch of MATE; mamba1 and none are ablations."""
    tesa: bool = True
    """The local branch of MATE (temporal Swin attention); off is an ablation."""
    tesa_window: tuple[int, int, int] = (16, 4, 4)
    """Window (T, H, W) in tokens, the same at all resolutions. Unpublished: small in space, medium in time."""
    scan: Literal["rms", "raster", "zigzag", "hilbert"] = "rms"
    """Token order of the MA-branch; raster is "no RMS"."""
    review_tokens: bool = True
    """Average-pooled tokens at the beginning of the Mamba passes; off is an ablation."""
    review_pool: tuple[int, int, int] = (8, 4, 4)
    """Pooling (T, H, W) of the review tokens."""
    review_both_passes: bool = True
    """Begin the reversed pass with its own copy of the review; otherwise it reads the review last, to no effect."""
    ssm_expand: float = 1
    """Mamba's inner width over D (the E of SUP Eq. 1). Unpublished: 1 gives 4.07B parameters, 2 gives 4.70B."""
    mamba2_state: int = 128
    """State size d_s of Mamba-2 (SUP E.2)."""
    mamba1_state: int = 16
    """State size d_s of Mamba-1 (SUP E.2)."""
    ssm_head_dim: int = 64
    """Head dim d_h of Mamba-2 (SUP E.2)."""
    ssm_conv: int = 4
    """Kernel size K of Mamba's convolution."""
    ffn_ratio: float = 8 / 3
    """Hidden width of the SwiGLU over D."""
    adaln: Literal["single", "layer"] = "single"
    """Timestep modulation: one shared MLP plus a table per layer, or one MLP per layer (a third more parameters)."""
    position_sizes: tuple[int, int, int] = (34, 24, 24)
    """Rows of the position tables (T, H, W) in tokens; larger inputs stretch them."""
    ssd_backend: str = "auto"
    """What computes the Mamba-2 scan; see lingen.ssd.BACKENDS."""
    ssd_chunk: int | None = None
    """Tokens per chunk of the scan (None: the backend's default): changes speed and memory, not the result."""
    attention_backend: str = "sdpa"
    """sdpa (PyTorch picks the kernel) or flash_attn (the package; falls back to sdpa)."""

    def __post_init__(self):
        for name in ("width", "depth", "heads", "latent_channels", "mamba2_state", "mamba1_state", "ssm_head_dim"):
            _positive(name, getattr(self, name))
        for name in ("patch", "tesa_window", "review_pool", "position_sizes"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name}: three numbers (T, H, W) are needed, not {getattr(self, name)}")
            for value in getattr(self, name):
                _positive(name, value)
        for name, choices in (
            ("mixer", ("mate", "attention")),
            ("ma_branch", ("mamba2", "mamba1", "none")),
            ("scan", SCANS),
            ("adaln", ("single", "layer")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}")
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}; choose a divisor")
        inner = int(self.ssm_expand * self.width)
        if self.mixer == "mate" and self.ma_branch == "mamba2" and inner % self.ssm_head_dim:
            raise ValueError(
                f"ssm_head_dim: {self.ssm_head_dim} does not divide ssm_expand * width = {inner}; choose a divisor"
            )
        if self.mixer == "mate" and self.ma_branch == "none" and not self.tesa:
            raise ValueError("tesa: with ma_branch none there would be no mixer at all; keep one of the two")
        if not self.text_dims:
            raise ValueError("text_dims: at least one text encoder is needed; name its embedding width")
        check_backend(self.ssd_backend)
        check_attention_backend(self.attention_backend)

    @property
    def ffn_hidden(self) -> int:
        """Hidden width of the SwiGLU."""
        return hidden_width(self.width, self.ffn_ratio)

    def token_grid(self, latent_shape: Sequence[int]) -> tuple[int, int, int]:
        """Token axes (T, H, W) for latent axes (T, H, W).

        Raises:
            ValueError: the patch does not divide a size.
        """
        for axis, size, patch in zip("THW", latent_shape, self.patch):
            if size < 1 or size % patch:
                raise ValueError(
                    f"latents: {axis} = {size} is not a positive multiple of the patch size {patch}; "
                    "choose another resolution or crop"
                )
        (T, H, W), (p, q, r) = latent_shape, self.patch
        return T // p, H // q, W // r

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; `from_dict` is the inverse."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DenoiserConfig:
        """Read the output of `to_dict`.

        Raises:
            ValueError: this version does not know a field.
        """
        if unknown := sorted(values.keys() - {f.name for f in dataclasses.fields(cls)}):
            raise ValueError(f"model config: unknown field {unknown[0]}; was it written by a newer version?")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: {value} is too small; it must be at least 1")


class Layer(nn.Module):
    """Mixer, cross-attention and feed-forward network, each added to the residual stream.

    Gates and the cross-attention's output start at zero, so a fresh layer is the identity.

    Attributes:
        recompute: keep only the layer's input for the backward pass, which computes the rest again.
    """

    def __init__(self, config: DenoiserConfig, index: int):
        super().__init__()
        D = config.width
        self.mixer_norm = RMSNorm(D, affine=False)
        self.mixer = build_mixer(config, index)
        self.cross_attention = CrossAttention(D, config.heads, config.attention_backend)
        self.ffn_norm = RMSNorm(D, affine=False)
        self.ffn = SwiGLU(D, config.ffn_hidden)
        # This layer's own part of the modulation: shift, scale and gate for the mixer, then for the FFN.
        self.modulation = nn.Parameter(torch.randn(6, D) / D**0.5)
        with torch.no_grad():
            self.modulation[[2, 5]] = 0.0
        self.adaln = AdaLN(D) if config.adaln == "layer" else None
        self.recompute = False

    def forward(
        self,
        x_BTHWD: Tensor,
        time: Tensor,
        positions_THWD: Tensor,
        text_BLD: Tensor,
        mask_BL: Tensor,
        order: ScanOrder | None = None,
    ) -> Tensor:
        """Apply the layer.

        Args:
            x_BTHWD: residual stream (B, T, H, W, D).
            time: the shared modulation (B, 6, D), or with adaln "layer" the timestep embedding (B, D).
            positions_THWD: position embeddings (T, H, W, D).
            text_BLD: text tokens (B, L, D).
            mask_BL: bool, False on text tokens to ignore (B, L).
            order: index of the scan, if it is not a plain permute.

        Returns:
            (B, T, H, W, D).
        """
        inputs = (x_BTHWD, time, positions_THWD, text_BLD, mask_BL, order)
        if self.recompute and torch.is_grad_enabled():  # nothing in a layer is random
            return checkpoint(self._compute, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self._compute(*inputs)

    def _compute(
        self,
        x: Tensor,
        time: Tensor,
        positions_THWD: Tensor,
        text_BLD: Tensor,
        mask_BL: Tensor,
        order: ScanOrder | None,
    ) -> Tensor:
        modulation_B6D = time if self.adaln is None else self.adaln(time)
        modulation = (modulation_B6D + self.modulation).to(x.dtype)[:, :, None, None, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(1)
        mixed = self.mixer(modulate(self.mixer_norm(x + positions_THWD), shift1, scale1), order)
        x = torch.addcmul(x, gate1, mixed.to(x.dtype))
        x = x + self.cross_attention(x, text_BLD, mask_BL)
        return torch.addcmul(x, gate2, self.ffn(modulate(self.ffn_norm(x), shift2, scale2)).to(x.dtype))


def build_mixer(config: DenoiserConfig, index: int) -> nn.Module:
    """Build the token mixer of layer `index`; its scan and window shift depend on the index."""
    D, backend = config.width, config.attention_backend
    if config.mixer == "attention":
        return SelfAttention(D, config.heads, backend)
    mamba: nn.Module | None = None
    if config.ma_branch == "mamba2":
        mamba = BidirectionalMamba2(
            D,
            expand=config.ssm_expand,
            state=config.mamba2_state,
            head_dim=config.ssm_head_dim,
            kernel=config.ssm_conv,
            chunk=config.ssd_chunk,
            backend=config.ssd_backend,
        )
    elif config.ma_branch == "mamba1":
        mamba = BidirectionalMamba1(D, expand=config.ssm_expand, state=config.mamba1_state, kernel=config.ssm_conv)
    pool = config.review_pool if config.review_tokens else None
    return MATE(
        MABranch(mamba, config.scan, index, pool, config.review_both_passes) if mamba is not None else None,
        TESA(D, config.heads, config.tesa_window, shifted=index % 2 == 1, backend=backend) if config.tesa else None,
    )


def parts(config: DenoiserConfig) -> Iterator[tuple[str, nn.Module | nn.Parameter | None]]:
    """Yield the denoiser's parts by name, each new, in the order in which their random weights are drawn."""
    D, cells = config.width, config.latent_channels * math.prod(config.patch)
    yield "patch_embedding", nn.Linear(cells, D)
    yield "positions", FactorizedPositions(config.position_sizes, D)
    yield "timestep", TimestepEmbedding(D)
    yield "adaln", AdaLN(D) if config.adaln == "single" else None
    yield "text", TextProjection(config.text_dims, D)
    yield "layers", nn.ModuleList()
    for i in range(config.depth):
        yield f"layers.{i}", Layer(config, i)
    yield "head_norm", RMSNorm(D, affine=False)
    yield "head_modulation", nn.Parameter(torch.randn(2, D) / D**0.5)
    head = nn.Linear(D, cells)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    yield "head", head


def initial_weights(config: DenoiserConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that `Denoiser(config)` would draw now, by name; only one part is in memory at a time."""
    for name, part in parts(config):
        if isinstance(part, nn.Parameter):
            yield name, part.detach()
        elif part is not None:
            yield from ((f"{name}.{inner}", p.detach()) for inner, p in part.named_parameters())


class Denoiser(nn.Module):
    """velocity = Denoiser(config)(x, t, text).

    `layers` are identical in structure, share no parameters and keep no state, so they can be wrapped one by one
    (sharding, activation checkpointing, torch.compile).
    """

    patch_embedding: nn.Linear
    positions: FactorizedPositions
    timestep: TimestepEmbedding
    adaln: AdaLN | None
    text: TextProjection
    layers: nn.ModuleList
    head_norm: RMSNorm
    head_modulation: nn.Parameter
    head: nn.Linear

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        for name, part in parts(config):
            if isinstance(part, Layer):
                self.layers.append(part)
            else:
                setattr(self, name, part)

    def forward(self, x_BCTHW: Tensor, t_B: Tensor, text: Text) -> Tensor:
        """Predict the velocity. An image is a video of one latent frame.

        Args:
            x_BCTHW: noisy latents (B, C, T, H, W).
            t_B: times in [0, 1] (B,); 0 is noise.
            text: one (embedding, mask) per encoder.

        Returns:
            Velocity (B, C, T, H, W) in x's dtype.

        Raises:
            ValueError: the patch does not divide a size, or channels, encoders or widths differ from the configuration.
        """
        c = self.config
        if x_BCTHW.ndim != 5 or x_BCTHW.shape[1] != c.latent_channels:
            raise ValueError(
                f"latents: shape {tuple(x_BCTHW.shape)} given; (B, {c.latent_channels}, T, H, W) is needed "
                "(latent_channels must match the TAE)"
            )
        grid = c.token_grid(x_BCTHW.shape[2:])
        x = self.patch_embedding(self._patchify(x_BCTHW, grid).to(self.patch_embedding.weight.dtype))
        positions = self.positions(*grid).to(x.dtype)
        embedding_BD = self.timestep(t_B)
        time = embedding_BD if self.adaln is None else self.adaln(embedding_BD)
        text_BLD, mask_BL = self.text(text)
        orders = scan_orders(c.scan, grid, review_grid(grid, c.review_pool), x.device)
        for i, layer in enumerate(self.layers):
            x = layer(x, time, positions, text_BLD, mask_BL, orders[i % len(orders)])
        head = (embedding_BD[:, None] + self.head_modulation).to(x.dtype)[:, :, None, None, None]
        x = self.head(modulate(self.head_norm(x), *head.unbind(1)))
        return self._unpatchify(x, grid).to(x_BCTHW.dtype)

    def _patchify(self, x_BCTHW: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """(B, C, T, H, W) in latent cells -> (B, T, H, W, F) in tokens."""
        (T, H, W), (p, q, r) = grid, self.config.patch
        x = x_BCTHW.reshape(-1, self.config.latent_channels, T, p, H, q, W, r)
        return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)

    def _unpatchify(self, x_BTHWF: Tensor, grid: tuple[int, int, int]) -> Tensor:
        (T, H, W), (p, q, r) = grid, self.config.patch
        x = x_BTHWF.unflatten(-1, (self.config.latent_channels, p, q, r))
        return x.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, self.config.latent_channels, T * p, H * q, W * r)
