"""Named architectures: LinGen and DiT at equal width and depth, from a toy to the paper's 4B.

The DiT of each pair has full self-attention in place of MATE and a 4x SwiGLU (LinGen: 8/3), so that the two differ by
less than 5% in parameters: 4.07B and 4.24B for the largest.
"""

from __future__ import annotations

import dataclasses

from lingen.model.denoiser import DenoiserConfig

_TINY = DenoiserConfig(
    width=128, depth=4, heads=4, mamba2_state=32, ssm_head_dim=32, text_dims=(128,), position_sizes=(2, 4, 4)
)

_LINGEN = {
    # For tests and the demo: every part of the large model, in seconds on a laptop.
    "tiny": _TINY,
    "lingen_100m": DenoiserConfig(width=640, depth=12, heads=10),
    "lingen_500m": DenoiserConfig(width=1152, depth=20, heads=9),
    "lingen_1b": DenoiserConfig(width=1536, depth=22, heads=12),
    # 32 layers, width 2560, 20 heads (SUP E.1); the expansion and the feed-forward ratio are ours and give 4.07B.
    "lingen_4b": DenoiserConfig(width=2560, depth=32, heads=20),
}


def _dit(name: str) -> str:
    return "dit_" + name.removeprefix("lingen_")


PRESETS: dict[str, DenoiserConfig] = {
    **_LINGEN,
    **{_dit(name): dataclasses.replace(c, mixer="attention", ffn_ratio=4.0) for name, c in _LINGEN.items()},
}


def preset(name: str) -> DenoiserConfig:
    """The architecture of this name.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    if name not in PRESETS:
        raise ValueError(f"model: {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
