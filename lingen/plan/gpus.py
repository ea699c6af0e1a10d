"""The cards that a plan can be made for: memory and data-sheet rates, and which share of them a plan assumes."""

from __future__ import annotations

import dataclasses

GEMM_SHARE = 0.657
"""Assumed share of the data sheet's FLOP/s in matrix products: 650 of an H100's 989 TFLOP/s."""
STREAM_SHARE = 0.836
"""Assumed share of the data sheet's bandwidth in elementwise operators: 2.8 of an H100's 3.35 TB/s."""
USABLE_SHARE = 0.9
"""Share of the memory that a plan fills: 72 of 80 GiB. CUDA's context, NCCL's buffers, the workspaces of libraries and
fragmentation, which no trace sees, take the rest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card, as on its vendor's data sheet."""

    name: str
    memory_gib: float
    """vendors write GB; an "80 GB" H100 reports 79.6 GiB"""
    tflops: float
    """dense bfloat16 TFLOP/s"""
    float32_tflops: float
    """without tensor cores"""
    gbps: float
    """memory bandwidth in GB/s"""
    link_gbps: float
    """to the other cards of a node, in GB/s and direction"""

    @property
    def usable_gib(self) -> float:
        """The highest peak that a plan accepts."""
        return USABLE_SHARE * self.memory_gib

    @property
    def gemm_tflops(self) -> float:
        """TFLOP/s that a plan assumes in bfloat16 matrix products."""
        return GEMM_SHARE * self.tflops

    @property
    def stream_gbps(self) -> float:
        """GB/s that a plan assumes in elementwise operators."""
        return STREAM_SHARE * self.gbps


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="a100-80", memory_gib=80, tflops=312, float32_tflops=19.5, gbps=2039, link_gbps=300),
        Gpu(name="h100", memory_gib=80, tflops=989, float32_tflops=67, gbps=3350, link_gbps=450),
        Gpu(name="h200", memory_gib=141, tflops=989, float32_tflops=67, gbps=4800, link_gbps=450),
        Gpu(name="b200", memory_gib=180, tflops=2250, float32_tflops=75, gbps=7700, link_gbps=900),
    )
}


def parse_gpu(text: str) -> Gpu:
    """A card by its name, or described as name:GB:TFLOPS:GBps (dense bfloat16 and memory bandwidth, data sheet).

    A described card is assumed to compute float32 at a fifteenth of that, and to have an H100's links.

    Raises:
        ValueError: it is neither.
    """
    if text in GPUS:
        return GPUS[text]
    name, *numbers = text.split(":")
    try:
        memory, tflops, gbps = (float(number) for number in numbers)
        if not (name and all(0 < x < 1e9 for x in (memory, tflops, gbps))):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--gpu: {text!r} is unknown; use {', '.join(GPUS)}, or name:GB:TFLOPS:GBps such as mi300x:192:1307:5300"
        ) from None
    link = GPUS["h100"].link_gbps
    return Gpu(name=name, memory_gib=memory, tflops=tflops, float32_tflops=tflops / 15, gbps=gbps, link_gbps=link)
