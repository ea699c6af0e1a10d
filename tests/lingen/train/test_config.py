"""The settings of training: what cannot be is named."""

import dataclasses

import pytest

from lingen.train.config import FitConfig


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"ema_decay": 1.0},
        {"lr": 0.0},
        {"keep_every": -1},
        {"hang_timeout": 0},
        {"shard_group": -2},
        {"average_last": 1001},
        {"held_out": 1.0},
    ],
)
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=f"fit.{next(iter(bad))}"):
        dataclasses.replace(FitConfig(), **bad)


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match=r"fit\.schedule: stairs is unknown; use constant, linear, cosine"):
        FitConfig(schedule="stairs")
