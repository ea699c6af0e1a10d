"""How long a step takes at best and at worst, from its operators and a card's rates: a range, and an estimate."""

from __future__ import annotations

import dataclasses

from lingen.plan.gpus import Gpu
from lingen.plan.timeline import StepCost

NETWORK_GBPS = 50.0
"""Default bandwidth between nodes in GB/s, per GPU and direction: a 400 Gb/s port each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step. Loading, checkpoints and slow ranks are not in it."""

    compute: float
    """matrix products and attention alone"""
    eager: float
    """every operator by itself, each as long as its FLOPs or its traffic takes, whichever is longer"""
    network: float
    """collectives alone"""

    @property
    def fastest(self) -> float:
        """Everything else fused away or hidden behind the longer of arithmetic and network."""
        return max(self.compute, self.network)

    @property
    def slowest(self) -> float:
        """Nothing fused (not compiled), nothing hidden."""
        return self.eager + self.network


def step_time(step: StepCost, gpu: Gpu, gpus_per_node: int = 8, network_gbps: float = NETWORK_GBPS) -> StepTime:
    """The roofline of a step.

    Args:
        step: as one rank takes it.
        gpu: the card; `gemm_tflops` and `stream_gbps` are the rates.
        gpus_per_node: groups of at most so many ranks communicate inside a node.
        network_gbps: between nodes, GB/s per GPU and direction.
    """
    compute = eager = network = 0.0
    for (flops, size, half), calls in step.work.items():
        seconds = flops / (1e12 * (gpu.gemm_tflops if half else gpu.float32_tflops))
        compute += calls * seconds
        eager += calls * max(seconds, size / (1e9 * gpu.stream_gbps))
    for collective, calls in step.collectives.items():
        rate = gpu.link_gbps if collective.ranks <= gpus_per_node else network_gbps
        network += calls * collective.moved / (1e9 * rate)
    return StepTime(compute=compute, eager=eager, network=network)
