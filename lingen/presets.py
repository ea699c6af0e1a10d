"""Named architectures."""

from __future__ import annotations

from lingen.denoiser import DenoiserConfig

PRESETS: dict[str, DenoiserConfig] = {
    # For tests and the demo: every part of the large model, seconds on a laptop.
    "tiny": DenoiserConfig(
        width=128, depth=4, heads=4, mamba2_state=32, ssm_head_dim=32, text_dims=(128,), position_sizes=(8, 8, 8)
    ),
}
