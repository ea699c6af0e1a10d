"""The setting that would help, with traces that are made up."""

import dataclasses

import pytest

from lingen.model.presets import preset
from lingen.plan import knobs
from lingen.plan.knobs import largest_micro_batch, remedy
from lingen.plan.step_trace import Workload
from lingen.train.config import FitConfig

WORK = Workload(architecture=preset("tiny"), fit=FitConfig(shard_group=8), latent_shape=(2, 8, 8), samples=12, ranks=64)


@dataclasses.dataclass
class Peak:
    peak_bytes: float


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """10 GiB for a copy of the state, 4 a sample (1 with checkpointing)."""

    def trace(work: Workload) -> Peak:
        state = 10 if work.fit.shard_group else 2
        return Peak(2**30 * (state + (1 if work.fit.activation_checkpointing else 4) * work.micro_batch))

    monkeypatch.setattr(knobs, "trace", trace)


@pytest.mark.parametrize(
    ("usable", "words"),
    [
        (15, "fit.micro_batch 1 would bring it to 14.0 GiB"),
        (11, "fit.micro_batch 1 and fit.activation_checkpointing on would bring it to 11.0 GiB"),
        (4, "fit.micro_batch 1 and fit.activation_checkpointing on and fit.shard_group 0 would bring it to 3.0 GiB"),
        (2, "the least that settings can bring it to is 3.0 GiB (traced); use a card with more memory"),
    ],
)
def test_settings_are_tried_until_the_step_fits(usable, words):
    assert words in remedy(WORK, usable * 2**30)


def test_the_largest_micro_batch_is_a_divisor_that_fits():
    assert [largest_micro_batch(WORK, usable * 2**30) for usable in (13, 14, 29, 34, 1000)] == [0, 1, 4, 6, 12]
