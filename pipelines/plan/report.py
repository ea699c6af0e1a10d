"""The report of a plan as text, and its refusal. Everything in it is an estimate, and is called one."""

from __future__ import annotations

from collections.abc import Sequence

from lingen.plan.gpus import GEMM_SHARE, STREAM_SHARE
from lingen.plan.knobs import remedy
from lingen.plan.ledger import KINDS
from lingen.plan.paper import CLIPS, h100_days
from lingen.plan.stage_plan import Machines, PlannedStage, StagePlan, plan_stage, steps_of, workload
from pipelines.cli import table
from pipelines.plan.config import PlanConfig

GIB = 2**30


def make_plan(stages: Sequence[PlannedStage], config: PlanConfig) -> list[StagePlan]:
    """Trace and plan some stages."""
    machines = config.machines
    steps = steps_of(stages, machines, config.at_a_time)
    return [plan_stage(stage, machines, step) for stage, step in zip(stages, steps)]


def report(plans: Sequence[StagePlan], price: float | None = None) -> str:
    """The whole plan as text.

    Args:
        plans: at least one, all for the same machines.
        price: of a card for an hour.
    """
    parts = [
        _assumptions(plans[0].machines),
        "Estimated memory of one rank at its peak, in GiB",
        _memory(plans),
        "Estimated time (bfloat16; the range is from all fused and hidden to nothing fused, nothing hidden)",
        _time(plans, price),
        _totals(plans, price),
        "Data that training reads",
        _data(plans),
        "Estimated storage (float16 latents and text; a sample is of the largest bucket, its caption of full length)",
        _storage(plans),
    ]
    return "\n\n".join(parts)


def refuse(plans: Sequence[StagePlan]) -> None:
    """Do nothing if all stages fit.

    Raises:
        ValueError: the first one that does not, and the settings that would make it fit.
    """
    for plan in plans:
        if plan.fits:
            continue
        usable = plan.machines.gpu.usable_gib
        helps = remedy(workload(plan.stage, plan.ranks), usable * GIB)
        others = sum(not p.fits for p in plans) - 1
        raise ValueError(
            f"{plan.stage.name}: its estimated peak of {plan.step.peak_bytes / GIB:.1f} GiB a rank is more than the "
            f"{usable:.1f} GiB that a plan fills of one {plan.machines.gpu.name}: {helps}"
            + (f"; {others} more of these stages {'does' if others == 1 else 'do'} not fit either" if others else "")
        )


def _assumptions(machines: Machines) -> str:
    gpu = machines.gpu
    return (
        f"A plan for {machines.nodes} x {machines.gpus_per_node} {gpu.name}. Every figure is an estimate, from a trace "
        "of the real training step on fake tensors;\nnone is a measurement. Assumed rates of a card: "
        f"{gpu.gemm_tflops:,.0f} TFLOP/s in matrix products ({GEMM_SHARE:.0%} of {gpu.tflops:,.0f}), "
        f"{gpu.stream_gbps:,.0f} GB/s in\nother operators ({STREAM_SHARE:.0%} of {gpu.gbps:,.0f}), "
        f"{machines.network_gbps:g} GB/s between nodes, {gpu.link_gbps:g} GB/s inside one. Traced is the eager "
        "step with PyTorch's\nown scan; what torch.compile and the kernels of mamba_ssm or fla keep in memory is not. "
        "Not traced either are\nCUDA's context, NCCL, workspaces and fragmentation: "
        f"{gpu.memory_gib - gpu.usable_gib:.1f} of {gpu.memory_gib:g} GiB are left for them."
    )


def _memory(plans: Sequence[StagePlan]) -> str:
    rows = []
    for p in plans:
        kinds = [f"{p.step.peak[kind] / GIB:.2f}" for kind in KINDS]
        verdict = "fits" if p.fits else "TOO MUCH"
        share = f"{p.stage.fit.batch_size} / {p.ranks}"
        peak = f"{p.step.peak_bytes / GIB:.1f}"
        rows.append((p.stage.name, p.tokens, share, p.micro_batch, *kinds, peak, p.step.peak_at, verdict))
    limit = plans[0].machines.gpu.usable_gib
    return table(rows, ("stage", "tokens", "batch/GPUs", "micro", *KINDS, "peak", "during", f"of {limit:.1f}"))


def _time(plans: Sequence[StagePlan], price: float | None) -> str:
    header = ["stage", "params", "TFLOP", "TB moved", "gathered GB", "reduced GB", "s/step", "steps/s", "MFU %"]
    header += ["GPU-days", "paper", "paper MFU %"] + (["cost"] if price is not None else [])
    rows = []
    for p in plans:
        fast, slow = p.time.fastest, p.time.slowest
        gathered, reduced = p.step.gathered("gather") / 1e9, p.step.gathered("reduce") / 1e9
        days, mfu = h100_days(p.stage.name), p.paper_mfu
        row: list[object] = [
            p.stage.name,
            f"{p.parameters / 1e9:.2f}B",
            f"{p.step.flops / 1e12:,.0f}",
            f"{p.step.bytes_moved / 1e12:.2f}",
            f"{gathered:.1f}",
            f"{reduced:.1f}",
            _range(fast, slow),
            _range(1 / slow, 1 / fast),
            _range(100 * p.mfu(slow), 100 * p.mfu(fast)),
            _range(p.gpu_days(fast), p.gpu_days(slow)),
            "-" if days is None else f"{days:,}",
            "-" if mfu is None else f"{100 * mfu:.0f}",
        ]
        if price is not None:
            row.append(_range(24 * price * p.gpu_days(fast), 24 * price * p.gpu_days(slow)))
        rows.append(row)
    return table(rows, header)


def _totals(plans: Sequence[StagePlan], price: float | None) -> str:
    fast, slow = (sum(p.gpu_days(s) for p, s in _with_times(plans, best)) for best in (True, False))
    wall = [sum(p.stage.fit.steps * s / 86_400 for p, s in _with_times(plans, best)) for best in (True, False)]
    days = [d for p in plans if (d := h100_days(p.stage.name)) is not None]
    text = f"Together {_range(fast, slow)} GPU-days in {_range(*wall)} days"
    if price is not None:
        text += f", {_range(24 * price * fast, 24 * price * slow)} at {price:g} an hour"
    if days:
        text += (
            f"; the paper's Table 5 has {sum(days):,} H100-days for {len(days)} of these stages. The MFU that it "
            "implies\nassumes that its model and frame sizes are these, and is of the H100's data sheet."
        )
    return text


def _with_times(plans: Sequence[StagePlan], best: bool) -> list[tuple[StagePlan, float]]:
    return [(p, p.time.fastest if best else p.time.slowest) for p in plans]


def _data(plans: Sequence[StagePlan]) -> str:
    rows = []
    for p in plans:
        for i, s in enumerate(p.supplies):
            known = s.there is not None
            paper = CLIPS.get(p.stage.name) if s.name != "images" or p.stage.largest.frames == 1 else None
            rows.append((
                p.stage.name if i == 0 else "",
                s.name,
                f"{s.needed:,}",
                f"{s.hours_needed:,.0f}" if s.hours_needed else "-",
                f"{s.there:,}" if known else "?",
                f"{s.hours_there:,.1f}" if s.hours_there else "-",
                f"{s.passes:,.1f}" if s.passes else ("none there" if known else "?"),
                f"{paper:,}" if paper else "-",
                f"{s.needed / paper:.1f}" if paper else "-",
            ))  # fmt: skip
    header = ("stage", "samples", "needed", "hours", "there", "hours there", "passes", "paper's", "passes of those")
    return table(rows, header)


def _storage(plans: Sequence[StagePlan]) -> str:
    rows = []
    for p in plans:
        store = p.storage
        there = [s.there for s in p.supplies if s.there is not None]
        count = sum(there) if there else CLIPS.get(p.stage.name)
        rows.append((
            p.stage.name,
            f"{store.latent / 1e6:.2f}",
            f"{store.text / 1e6:.2f}",
            "?" if count is None else f"{count:,} {'there' if there else 'of the paper'}",
            "?" if count is None else f"{store.samples(count) / 1e12:.3g}",
            f"{store.checkpoints} x {store.checkpoint / 1e9:.3g}",
            f"{store.export / 1e9:.3g}",
            f"{p.headroom:.2f}",
        ))  # fmt: skip
    header = ("stage", "MB a latent", "MB a text", "samples", "TB", "checkpoints GB", "model GB", "of 2^31")
    return (
        table(rows, header)
        + "\n\nof 2^31: the largest offset of mamba_ssm's kernel at this micro-batch; above 1 the scan is split."
    )


def _range(low: float, high: float) -> str:
    """Two numbers with three digits, or one where they are the same."""
    first, second = (f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in (low, high))
    return first if first == second else f"{first}-{second}"
