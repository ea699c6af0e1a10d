"""What a plan is made for."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from lingen.plan.gpus import parse_gpu
from lingen.plan.roofline import NETWORK_GBPS
from lingen.plan.stage_plan import Machines


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """The machines of a training run, and what is known of its data."""

    gpu: str | None = None
    """Card to plan training for, without having one: a100-80, h100, h200, b200, or name:GB:TFLOPS:GBps (dense bfloat16
    and memory bandwidth of its data sheet)."""
    nodes: int = 1
    """Nodes that train."""
    gpus_per_node: int = 8
    """Cards of each."""
    network: float = NETWORK_GBPS
    """Bandwidth between nodes in GB/s, per card and direction."""
    price: float | None = None
    """Price of a card for an hour; with it the plan has costs."""
    shards: Path | None = None
    """Output folder of jobs/encode.py: the plan then says how often training sees each sample."""
    curated: Path | None = None
    """Output folder of jobs/curate.py: the same from its kept clips, before they are encoded."""
    processes: int = 0
    """Stages that are traced at a time; 0: one per CPU."""

    def __post_init__(self) -> None:
        if self.gpu is not None:
            parse_gpu(self.gpu)
        for name in ("nodes", "gpus_per_node", "network"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name.replace('_', '-')}: must be more than 0, got {getattr(self, name)}")
        if self.price is not None and not self.price >= 0:
            raise ValueError(f"--price: must not be negative, got {self.price}")
        if self.shards and self.curated:
            raise ValueError("--curated: --shards says it better; give one of the two")

    @property
    def machines(self) -> Machines:
        """The machines, if there is a card."""
        assert self.gpu is not None
        return Machines(
            gpu=parse_gpu(self.gpu),
            nodes=self.nodes,
            gpus_per_node=self.gpus_per_node,
            network_gbps=self.network,
        )

    @property
    def at_a_time(self) -> int:
        """Traces to run at a time."""
        return self.processes or os.cpu_count() or 1
