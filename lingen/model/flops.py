"""FLOPs of a forward pass by formula (SUP Eq. 1-3), for any architecture and size.

    python -m lingen.flops --stages [--json]

Counts are for one sample and one forward pass; a multiply-add is 2 FLOPs. Training costs three times as much, or four
times if activations are recomputed.

Letters: N tokens, R review tokens, L text tokens, d width, E expansion, d_s (ds) state size, d_h head dim, K kernel
size of the convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.review import review_grid
from lingen.model.tesa import axis_stretches
from lingen.ssd.backends import BACKENDS

MIXERS = ("ma_branch", "tesa", "self_attention")
TEXT_TOKENS = 77
"""CLIP's context length."""
PEAK_TFLOPS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "B200": 2250, "L40S": 362}
"""Dense bfloat16, from the vendors' data sheets; the first name contained in a device's name applies."""


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOPs per second from the vendor's data sheet; None if the device is not in PEAK_TFLOPS."""
    return next((1e12 * peak for name, peak in PEAK_TFLOPS.items() if name in device_name), None)


def training_flops(config: DenoiserConfig, latent_shape: Sequence[int], text_tokens: int = TEXT_TOKENS) -> float:
    """FLOPs of one sample's forward and backward pass: 3 forward passes. As in MFU, recomputation does not count.

    Args:
        config: the architecture.
        latent_shape: latent axes (T, H, W).
        text_tokens: text tokens of all encoders together.
    """
    return 3 * sum(forward_flops(config, latent_shape, text_tokens).values())


def forward_flops(
    config: DenoiserConfig, latent_shape: Sequence[int], text_tokens: int = TEXT_TOKENS, executed: bool = False
) -> dict[str, float]:
    """FLOPs of one forward pass of one sample, by part; the sum of the values is the total.

    Args:
        config: the architecture.
        latent_shape: latent axes (T, H, W).
        text_tokens: text tokens of all encoders together.
        executed: count what the `torch` scan backend executes instead of the paper's operations: matrix products,
            attention and convolutions (the chunked scan does more of them than Eq. 3 states), no elementwise work. This
            is what PyTorch's FlopCounterMode counts.
    """
    c, d = config, config.width
    grid = c.token_grid(latent_shape)
    N, L = math.prod(grid), text_tokens + 1  # the null token
    patch = c.latent_channels * math.prod(c.patch)
    parts: dict[str, float] = {
        "cross_attention": c.depth * (4 * N * d * d + 4 * L * d * d + 4 * N * L * d),
        "ffn": c.depth * 6 * N * d * c.ffn_hidden,
        "embeddings": 4 * N * patch * d
        + 2 * (256 * d + d * d + (c.depth if c.adaln == "layer" else 1) * 6 * d * d)  # timestep
        + 2 * sum(c.text_dims) * d * text_tokens,
    }
    if c.mixer == "attention":
        parts["self_attention.projections"] = c.depth * 8 * N * d * d
        parts["self_attention.attention"] = c.depth * 4 * N * N * d
        return parts
    if c.ma_branch != "none":
        R = math.prod(review_grid(grid, c.review_pool)) if c.review_tokens else 0
        cost = mamba2_flops if c.ma_branch == "mamba2" else mamba1_flops
        after = R if c.review_both_passes else 0
        for name, value in cost(config, N, R, after, executed).items():
            parts[f"ma_branch.{name}"] = c.depth * value
    if c.tesa:
        parts["tesa.projections"] = c.depth * 8 * N * d * d
        parts["tesa.attention"] = 4 * d * sum(window_pairs(grid, c.tesa_window, i % 2 == 1) for i in range(c.depth))
    return parts


def mamba2_flops(config: DenoiserConfig, N: int, R: int, after: int, executed: bool = False) -> dict[str, float]:
    """One bidirectional Mamba-2 (SUP Eq. 1) over R + N + `after` tokens; each direction scans R + N."""
    c, d, inner, ds = config, config.width, int(config.ssm_expand * config.width), config.mamba2_state
    heads, scanned = inner // c.ssm_head_dim, N + R
    projections = 2 * (N + R + after) * d * (2 * inner + 2 * ds + heads) + 2 * N * inner * d
    if not executed:
        return {
            "projections": projections,
            "conv": 2 * conv_flops(scanned, inner, c.ssm_conv),
            "ssm": 2 * ssm_flops(scanned, inner, ds),
        }
    chunk = min(c.ssd_chunk or BACKENDS["torch"].chunk, scanned)
    padded = -(-scanned // chunk) * chunk
    return {
        "projections": projections,
        "conv": 2 * 2 * c.ssm_conv * scanned * (inner + 2 * ds),
        "ssm": 2 * (2 * padded * chunk * (ds + inner) + 4 * padded * ds * inner),
    }


def mamba1_flops(config: DenoiserConfig, N: int, R: int, after: int, executed: bool = False) -> dict[str, float]:
    """One bidirectional Mamba-1: each direction has its own projection for dt, B and C."""
    c, d, inner, ds = config, config.width, int(config.ssm_expand * config.width), config.mamba1_state
    rank, scanned = math.ceil(d / 16), N + R
    per_direction = 2 * scanned * inner * (rank + 2 * ds) + 2 * scanned * rank * inner
    return {
        "projections": 2 * (N + R + after) * d * 2 * inner + 2 * N * inner * d + 2 * per_direction,
        "conv": 2 * conv_flops(scanned, inner, c.ssm_conv) if not executed else 4 * c.ssm_conv * scanned * inner,
        # Executed as a matrix product is only the readout C h; the state update is elementwise.
        "ssm": 2 * (ssm_flops(scanned, inner, ds) if not executed else 2 * scanned * inner * ds),
    }


def conv_flops(N: int, inner: int, K: int) -> float:
    """One causal depthwise convolution: 2 E K (N + K - 1) d, with inner = E d (SUP Eq. 2)."""
    return 2 * K * (N + K - 1) * inner


def ssm_flops(N: int, inner: int, state: int) -> float:
    """One scan: 4 E N d_s d + 2 E N d, with inner = E d (SUP Eq. 3)."""
    return 4 * N * state * inner + 2 * N * inner


def bimamba_flops(N: int, d: int, E: float, d_s: int, d_h: int) -> float:
    """The projections of one bidirectional Mamba-2: SUP Eq. 1 without its O(N d) term."""
    return (6 + 2 / d_h) * E * N * d * d + 4 * N * d_s * d


def window_pairs(grid: Sequence[int], window: Sequence[int], shifted: bool) -> int:
    """Query-key pairs of one TESA layer: the sum over all windows of (tokens in the window)^2.

    Args:
        grid: token axes (T, H, W).
        window: window size (T, H, W) in tokens.
        shifted: whether the layer's windows are shifted by half a window.
    """
    pairs = 1
    for length, size in zip(grid, window):
        pairs *= sum(count * n * n for _, count, n in axis_stretches(length, size, size // 2 if shifted else 0))
    return pairs


def mixer_flops(parts: dict[str, float]) -> float:
    """The token mixers' share of `forward_flops`: MATE or self-attention."""
    return sum(value for name, value in parts.items() if name.startswith(MIXERS))


def parameter_count(config: DenoiserConfig) -> int:
    """Number of parameters of the model, counted without allocating them."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in Denoiser(config).parameters())


def stage_table(lingen: str = "lingen_4b", dit: str = "dit_4b", text_tokens: int = TEXT_TOKENS) -> dict[str, Any]:
    """FLOPs of the paper's stages for a pair of presets, as JSON values.

    Args:
        lingen: preset with MATE.
        dit: preset with self-attention; the ratios are its FLOPs over LinGen's, of whole models and of mixers alone.
        text_tokens: text tokens of all encoders together.

    Raises:
        ValueError: there is no such preset.
    """
    from lingen.model.presets import preset
    from lingen.model.stages import STAGES

    models = {name: preset(name) for name in (lingen, dit)}
    rows = []
    for stage in STAGES:
        row: dict[str, Any] = {
            "stage": stage.name,
            "frames": stage.frames,
            "height": stage.height,
            "width": stage.width,
            "tokens": math.prod(models[lingen].token_grid(stage.latent_shape)),
        }
        for name, config in models.items():
            parts = forward_flops(config, stage.latent_shape, text_tokens)
            row[name] = {"flops": sum(parts.values()), "mixer_flops": mixer_flops(parts), "parts": parts}
        row["whole_model_ratio"] = row[dit]["flops"] / row[lingen]["flops"]
        row["mixer_only_ratio"] = row[dit]["mixer_flops"] / row[lingen]["mixer_flops"]
        rows.append(row)
    return {
        "unit": "FLOPs of one forward pass of one sample; a multiply-add is 2",
        "text_tokens": text_tokens,
        "models": {name: {"parameters": parameter_count(c), "config": c.to_dict()} for name, c in models.items()},
        "ratios": f"{dit} over {lingen}",
        "stages": rows,
    }


def format_table(table: dict[str, Any]) -> str:
    """Format the output of `stage_table` as readable text."""
    (lingen, a), (dit, b) = table["models"].items()
    lines = [
        f"{lingen}: {a['parameters'] / 1e9:.2f}B parameters, {dit}: {b['parameters'] / 1e9:.2f}B. "
        f"TFLOPs of one forward pass of one sample, {table['text_tokens']} text tokens.",
        "Ratios are DiT over LinGen by the same formulas: of the whole models, and of their token mixers alone",
        "(self-attention against MATE).",
        "",
        f"{'stage':<14}{'frames x H x W':>18}{'tokens':>9}{lingen:>12}{dit:>12}{'whole model':>13}{'mixers only':>13}",
    ]
    for row in table["stages"]:
        shape = f"{row['frames']} x {row['height']} x {row['width']}"
        lines.append(
            f"{row['stage']:<14}{shape:>18}{row['tokens']:>9,}{row[lingen]['flops'] / 1e12:>12,.1f}"
            f"{row[dit]['flops'] / 1e12:>12,.1f}{row['whole_model_ratio']:>12.2f}x{row['mixer_only_ratio']:>12.2f}x"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command `python -m lingen.flops`."""
    import argparse
    import json

    parser = argparse.ArgumentParser(prog="python -m lingen.flops", description="FLOPs of LinGen and DiT by formula.")
    parser.add_argument("--stages", action="store_true", required=True, help="the five stages of the paper")
    parser.add_argument("--json", action="store_true", help="machine-readable, with the parts of each model")
    parser.add_argument("--lingen", default="lingen_4b", help="preset to compare (default %(default)s)")
    parser.add_argument("--dit", default="dit_4b", help="preset to compare it with (default %(default)s)")
    parser.add_argument("--text-tokens", type=int, default=TEXT_TOKENS, help="caption length (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        table = stage_table(options.lingen, options.dit, options.text_tokens)
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(table, indent=2) if options.json else format_table(table))
