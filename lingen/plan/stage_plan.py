"""The plan of one stage: what a step takes, how long all steps take, what they need and cost. All of it estimates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from lingen.data.buckets import Bucket
from lingen.model.denoiser import DenoiserConfig
from lingen.model.flops import parameter_count, training_flops
from lingen.model.review import review_grid
from lingen.plan.gpus import Gpu
from lingen.plan.paper import SECONDS_A_DAY, implied_mfu
from lingen.plan.roofline import NETWORK_GBPS, StepTime, step_time
from lingen.plan.step_trace import Workload, trace
from lingen.plan.supplies import Storage, Supply, storage, supplies
from lingen.plan.timeline import StepCost
from lingen.ssd import BACKENDS, int32_headroom
from lingen.train.config import FitConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage whose cost is wanted."""

    name: str
    architecture: DenoiserConfig
    fit: FitConfig
    buckets: tuple[Bucket, ...]
    """of its longest samples; the largest one is traced"""
    fps: float = 16.0
    text: tuple[tuple[int, int], ...] = ((77, 1024),)
    """(tokens, width) of every text encoder"""
    there: Mapping[str, int] | None = None
    """samples to train on by bucket, or by medium (see supplies); None: unknown"""

    @property
    def largest(self) -> Bucket:
        """The bucket with the most tokens."""
        return max(self.buckets, key=lambda b: math.prod(b.latent_shape()[1:]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machines:
    """What a stage runs on."""

    gpu: Gpu
    nodes: int = 1
    gpus_per_node: int = 8
    network_gbps: float = NETWORK_GBPS
    """between nodes, per GPU and direction"""

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.nodes * self.gpus_per_node


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What a stage comes to."""

    stage: PlannedStage
    machines: Machines
    ranks: int
    """GPUs that have a sample in every batch"""
    micro_batch: int
    parameters: int
    tokens: int
    """of the largest sample"""
    step: StepCost
    """of one rank"""
    time: StepTime
    """of one step"""
    model_flops: float
    """of one step of all ranks: forward and backward, recomputation not counted"""
    headroom: float
    """share of 2^31 that a 32-bit kernel's largest offset reaches"""
    supplies: list[Supply]
    storage: Storage

    @property
    def fits(self) -> bool:
        """Whether the peak is within what the card can use."""
        return self.step.peak_bytes <= self.machines.gpu.usable_gib * 2**30

    def mfu(self, seconds: float) -> float:
        """Share of the data sheet's FLOP/s that the model's own FLOPs reach."""
        return self.model_flops / (seconds * self.ranks * 1e12 * self.machines.gpu.tflops)

    def gpu_days(self, seconds: float) -> float:
        """GPU-days of all steps at so many seconds a step."""
        return self.stage.fit.steps * seconds * self.ranks / SECONDS_A_DAY

    @property
    def paper_mfu(self) -> float | None:
        """What the paper's GPU-days imply; None for a stage that it does not have."""
        return implied_mfu(self.stage.name, self.stage.architecture, sum(tokens for tokens, _ in self.stage.text))


def workload(stage: PlannedStage, ranks: int) -> Workload:
    """The step of the rank with the most samples, in the largest bucket."""
    _, T, H, W = stage.largest.latent_shape(stage.architecture.latent_channels)
    grid = stage.architecture.token_grid((T, H, W))
    t, h, w = (max(pair) for pair in zip(stage.architecture.position_sizes, grid))
    architecture = dataclasses.replace(
        stage.architecture, position_sizes=(t, h, w), text_dims=tuple(width for _, width in stage.text)
    )
    if architecture.ssd_backend == "auto":  # what `auto` takes where no kernel is installed; the others need less
        architecture = dataclasses.replace(architecture, ssd_backend="torch")
    return Workload(
        architecture=architecture,
        fit=stage.fit,
        latent_shape=(T, H, W),
        samples=math.ceil(stage.fit.batch_size / ranks),
        ranks=ranks,
        text_tokens=tuple(tokens for tokens, _ in stage.text),
    )


def plan_stage(stage: PlannedStage, machines: Machines, step: StepCost | None = None) -> StagePlan:
    """Plan a stage.

    Args:
        step: its traced step, if it is known.

    Raises:
        ValueError: the stage's samples cannot be mixed as its settings ask.
    """
    ranks = min(machines.gpus, stage.fit.batch_size)
    work = workload(stage, ranks)
    step = step or trace(work)
    architecture, tokens = work.architecture, math.prod(work.architecture.token_grid(work.latent_shape))
    parameters = parameter_count(architecture)
    text_tokens = sum(work.text_tokens)
    return StagePlan(
        stage=stage,
        machines=machines,
        ranks=ranks,
        micro_batch=work.micro_batch,
        parameters=parameters,
        tokens=tokens,
        step=step,
        time=step_time(step, machines.gpu, machines.gpus_per_node, machines.network_gbps),
        model_flops=stage.fit.batch_size * training_flops(architecture, work.latent_shape, text_tokens),
        headroom=_headroom(architecture, work),
        supplies=supplies(stage.fit, stage.largest, stage.fps, stage.there),
        storage=storage(stage.fit, parameters, work.latent_shape, architecture.latent_channels, stage.text),
    )


def _headroom(architecture: DenoiserConfig, work: Workload) -> float:
    """Of mamba_ssm's kernel, the one with 32-bit offsets: above 1 the scan is split."""
    if architecture.mixer != "mate" or architecture.ma_branch != "mamba2":
        return 0.0
    grid = architecture.token_grid(work.latent_shape)
    review = math.prod(review_grid(grid, architecture.review_pool)) if architecture.review_tokens else 0
    return int32_headroom(
        "mamba_ssm",
        batch=work.micro_batch,
        length=math.prod(grid) + review,
        heads=int(architecture.ssm_expand * architecture.width) // architecture.ssm_head_dim,
        head_dim=architecture.ssm_head_dim,
        state=architecture.mamba2_state,
        chunk=architecture.ssd_chunk or BACKENDS["mamba_ssm"].chunk,
    )


def steps_of(stages: Sequence[PlannedStage], machines: Machines, processes: int) -> list[StepCost]:
    """The traced step of every stage; stages that differ in nothing that counts share one.

    Args:
        processes: traces that run at a time, each in a process of its own; 1: all in this one.
    """
    workloads = [workload(stage, min(machines.gpus, stage.fit.batch_size)) for stage in stages]
    different: list[Workload] = []
    for work in (_essence(work) for work in workloads):
        if work not in different:
            different.append(work)
    # The longest first, so that no process ends with it alone.
    different.sort(key=lambda work: -math.prod(work.latent_shape))
    if processes <= 1 or len(different) == 1:
        steps = [trace(work) for work in different]
    else:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(min(processes, len(different)), multiprocessing.get_context("spawn")) as pool:
            steps = list(pool.map(trace, different))
    return [steps[different.index(_essence(work))] for work in workloads]


def _essence(work: Workload) -> Workload:
    """The workload with the settings alone that a step's cost depends on."""
    fit = work.fit
    costs = FitConfig(
        micro_batch=work.micro_batch,
        precision=fit.precision,
        activation_checkpointing=fit.activation_checkpointing,
        shard_group=fit.shard_group,
    )
    return dataclasses.replace(work, fit=costs)
