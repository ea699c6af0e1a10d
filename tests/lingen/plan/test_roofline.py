"""Seconds by hand."""

from collections import Counter

import pytest

from lingen.plan.gpus import parse_gpu
from lingen.plan.ledger import KINDS, Collective
from lingen.plan.roofline import step_time
from lingen.plan.timeline import StepCost


def test_each_operator_takes_as_long_as_its_flops_or_its_traffic():
    gpu = parse_gpu("mine:80:1000:1000")  # 657 TFLOP/s and 836 GB/s of it
    step = StepCost(
        peak=dict.fromkeys(KINDS, 0),
        peak_at="",
        resting={},
        work=Counter({(657e12, 1, True): 2, (0.0, int(836e9), True): 3}),
        collectives=Counter({Collective("allgather_base", 2, 100_000_000_000): 1, Collective("all_reduce", 16, 0): 1}),
    )
    inside = step_time(step, gpu, gpus_per_node=8, network_gbps=10)
    assert (inside.compute, inside.eager) == (pytest.approx(2), pytest.approx(5))
    assert inside.network == pytest.approx(50 / 450)
    between = step_time(step, gpu, gpus_per_node=1, network_gbps=10)
    assert between.network == pytest.approx(5)
    assert (between.fastest, between.slowest) == (pytest.approx(5), pytest.approx(10))
