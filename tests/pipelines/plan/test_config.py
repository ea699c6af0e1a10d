"""The machines of a plan from flags."""

import pytest

from pipelines.plan.config import PlanConfig


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"gpu": "h101"}, "--gpu"),
        ({"nodes": 0}, "--nodes"),
        ({"gpus_per_node": 0}, "--gpus-per-node"),
        ({"network": 0.0}, "--network"),
        ({"price": -1.0}, "--price"),
        ({"shards": "a", "curated": "b"}, "--curated"),
    ],
)
def test_bad_flags_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        PlanConfig(**flags)


def test_nodes_times_cards():
    assert PlanConfig(gpu="h100", nodes=32).machines.gpus == 256
