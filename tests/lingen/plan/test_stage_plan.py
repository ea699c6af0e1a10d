"""A stage's plan, with a traced step that is made up."""

import dataclasses
from collections import Counter

import pytest

from lingen.data.buckets import Bucket
from lingen.model.flops import training_flops
from lingen.model.presets import preset
from lingen.plan import stage_plan
from lingen.plan.gpus import parse_gpu
from lingen.plan.ledger import KINDS
from lingen.plan.stage_plan import Machines, PlannedStage, plan_stage, steps_of, workload
from lingen.plan.timeline import StepCost
from lingen.train.config import FitConfig

STAGE = PlannedStage(
    name="mine",
    architecture=preset("tiny"),
    fit=FitConfig(steps=86_400, batch_size=20, micro_batch=2),
    buckets=(Bucket("video", 64, 64, 16), Bucket("video", 64, 96, 16)),
    text=((16, 128),),
)
MACHINES = Machines(gpu=parse_gpu("mine:80:1000:1000"), nodes=1, gpus_per_node=8)


def step(gib: float) -> StepCost:
    peak = {**dict.fromkeys(KINDS, 0), "weights": int(gib * 2**30)}
    return StepCost(
        peak=peak, peak_at="backward", resting={}, work=Counter({(657e12, 1, True): 1}), collectives=Counter()
    )


def test_days_utilisation_and_tokens_by_hand():
    plan = plan_stage(STAGE, MACHINES, step(72.0))
    assert (plan.ranks, plan.micro_batch, plan.tokens, plan.fits) == (8, 2, 2 * 4 * 6, True)
    assert plan.time.compute == pytest.approx(1)
    assert plan.gpu_days(1.0) == 8
    flops = 20 * training_flops(workload(STAGE, 8).architecture, (2, 8, 12), 16)
    assert plan.mfu(1.0) == pytest.approx(flops / (8 * 1e15))
    assert not plan_stage(STAGE, MACHINES, step(72.1)).fits


def test_the_rank_with_the_most_samples_counts_and_no_more_gpus_than_samples():
    assert workload(STAGE, 8).samples == 3
    few = dataclasses.replace(STAGE, fit=dataclasses.replace(STAGE.fit, batch_size=4))
    assert plan_stage(few, MACHINES, step(1)).ranks == 4


def test_stages_that_differ_in_what_costs_nothing_are_traced_once(monkeypatch):
    traced = []
    monkeypatch.setattr(stage_plan, "trace", lambda work: traced.append(work) or step(1))
    slower = dataclasses.replace(STAGE, name="other", fit=dataclasses.replace(STAGE.fit, lr=1e-3, steps=5))
    larger = dataclasses.replace(STAGE, fit=dataclasses.replace(STAGE.fit, micro_batch=1))
    assert len(steps_of([STAGE, slower, larger], MACHINES, processes=1)) == 3
    assert len(traced) == 2
