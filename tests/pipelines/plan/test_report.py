"""The report's words, with a traced step that is made up."""

from collections import Counter

import pytest

from lingen.plan.ledger import KINDS
from lingen.plan.stage_plan import plan_stage
from lingen.plan.timeline import StepCost
from pipelines.plan import report as report_module
from pipelines.plan.config import PlanConfig
from pipelines.plan.report import refuse, report
from pipelines.plan.stages import planned_stages
from pipelines.recipes import RECIPES

MACHINES = PlanConfig(gpu="h100", nodes=32).machines


def plans(gib: float):
    peak = {**dict.fromkeys(KINDS, 0), "temporaries": int(gib * 2**30)}
    step = StepCost(
        peak=peak, peak_at="backward", resting={}, work=Counter({(650e12, 9, True): 2}), collectives=Counter()
    )
    return [plan_stage(stage, MACHINES, step) for stage in planned_stages(RECIPES["paper"])[3:5]]


def test_the_report_has_every_part_and_calls_estimates_estimates():
    text = report(plans(60), price=2.0)
    assert "Every figure is an estimate" in text
    assert "650 TFLOP/s" in text
    assert "2,801 GB/s" in text
    for word in (
        "peak",
        "gathered GB",
        "s/step",
        "MFU",
        "GPU-days",
        "cost",
        "1,307",
        "passes",
        "checkpoints GB",
        "of 2^31",
    ):
        assert word in text, word
    assert "cost" not in report(plans(60))


def test_what_does_not_fit_is_refused_with_the_knob(monkeypatch):
    monkeypatch.setattr(report_module, "remedy", lambda work, usable: "fit.micro_batch 1 would bring it to 50.0 GiB")
    refuse(plans(72))
    with pytest.raises(ValueError, match=r"t2v_512p_34s: .*73\.0 GiB.*72\.0 GiB.*one h100: fit\.micro_batch 1.*1 more"):
        refuse(plans(73))
