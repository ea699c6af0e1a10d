"""Size of the temporal autoencoder, and named sizes."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TAEConfig:
    """Size of the autoencoder. The levels set the compression: 2x in height and width at each but the last."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    """width of each level, finest first"""
    blocks: int = 2
    """residual blocks per level in the encoder"""
    decoder_blocks: int = 3
    """residual blocks per level in the decoder"""
    latent_channels: int = 16
    """channels of the latent"""
    time_levels: int = 3
    """how many of the downsamplings also halve time, counted from the finest"""
    patch: tuple[int, int, int] = (1, 1, 1)
    """T, H, W patch folded into channels before the first convolution (LTX-Video, Cosmos); 1, 1, 1 is Movie Gen's"""
    linear_shortcut: bool = False
    """add a linear autoencoder of whole 8x8x8 blocks around the network, initialised with the data's principal
    components: a short training then refines transform coding instead of finding it; Movie Gen has none"""
    attention_heads: int = 1
    """heads of both attention layers at the coarsest level"""
    attention_reach: int = 4
    """latent frames that temporal attention sees before and after each"""

    def __post_init__(self) -> None:
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
        """Pixels per latent position, in height and in width."""
        return self.patch[1] * 2 ** (len(self.channels) - 1)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame."""
        return self.patch[0] * 2**self.time_levels


TAE_PRESETS = {
    "tae_paper": TAEConfig(),
    "tae_tiny": TAEConfig(
        channels=(32, 64, 128), blocks=1, decoder_blocks=1, time_levels=2, patch=(2, 2, 2), linear_shortcut=True
    ),
}
