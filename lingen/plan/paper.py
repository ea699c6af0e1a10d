"""What the paper says about its stages (SUP Table 5 and E.3.2), and the utilisation that follows from it."""

from __future__ import annotations

from lingen.model.denoiser import DenoiserConfig
from lingen.model.flops import training_flops
from lingen.model.stages import STAGES
from lingen.plan.gpus import GPUS

SECONDS_A_DAY = 86_400

CLIPS = {
    "t2i_256p": 300_000_000,
    "t2v_256p_17s": 24_000_000,
    "t2v_512p_17s": 24_000_000,
    "t2v_512p_34s": 2_500_000,
    "t2v_512p_68s": 145_000,
}
"""Image or video pairs that the paper had for a stage: all videos; those over 30 s; those over 60 s."""


def h100_days(stage: str) -> int | None:
    """The paper's GPU-days for a stage; None where it states none."""
    return next((s.h100_days for s in STAGES if s.name == stage), None)


def implied_mfu(stage: str, architecture: DenoiserConfig, text_tokens: int) -> float | None:
    """The share of the H100's data sheet that the paper's GPU-days come to, if its model is ours.

    Counted are a forward and a backward pass; recomputation is not. None where the paper states no GPU-days.
    """
    known = next((s for s in STAGES if s.name == stage), None)
    if known is None or not known.h100_days:
        return None
    flops = training_flops(architecture, known.latent_shape, text_tokens) * known.batch * known.steps
    return flops / (known.h100_days * SECONDS_A_DAY * 1e12 * GPUS["h100"].tflops)
