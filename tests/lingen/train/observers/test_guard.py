"""The gradient guard: which norms it accepts, and when it asks for a rewind."""

import dataclasses
import json
import math

import pytest

from lingen.train.observers.guard import Guard, GuardConfig


def decisions(guard, norms):
    return [guard.reason_to_skip(n) is None for n in norms]


def test_it_skips_what_is_not_finite_or_far_above_the_median():
    guard = Guard(GuardConfig(spike_factor=4, window=3))
    assert decisions(guard, [100.0, 1.0, 2.0]) == [True] * 3, "no spikes before there is a usual norm"
    assert decisions(guard, [7.9, 8.1, math.nan, math.inf, 7.9]) == [True, False, False, False, True]
    assert guard.norms == [2.0, 7.9, 7.9], "skipped norms do not count as usual"


def test_skips_in_a_row_ask_for_a_rewind_and_an_accepted_update_forgets_them():
    guard = Guard(GuardConfig(max_skips=2))
    decisions(guard, [math.nan, 1.0, math.nan])
    assert not guard.wants_rewind
    decisions(guard, [math.nan])
    assert guard.wants_rewind


def test_a_resumed_guard_decides_as_one_that_was_never_stopped():
    norms = [1.0, 2.0, 3.0, 9.0, math.nan, 2.0, 30.0, 31.0]
    whole, first, second = (Guard(GuardConfig(spike_factor=4, window=3)) for _ in range(3))
    expected = decisions(whole, norms)
    start = decisions(first, norms[:5])
    second.load_state(json.loads(json.dumps(first.state())))
    assert start + decisions(second, norms[5:]) == expected
    assert second.state() == whole.state()


@pytest.mark.parametrize(
    ("name", "value"),
    [("spike_factor", 0.5), ("spike_factor", 1), ("window", 0), ("max_skips", 0), ("max_rewinds", -1)],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"fit.guard.{name}"):
        dataclasses.replace(GuardConfig(), **{name: value})


def test_the_least_settings_work():
    guard = Guard(GuardConfig(window=1, max_skips=1, max_rewinds=0, spike_factor=2))
    assert decisions(guard, [1.0, 2.0, 4.1]) == [True, True, False], "exactly twice the usual is not more than that"
    assert guard.wants_rewind
    assert not guard.may_rewind


def test_without_a_factor_any_finite_norm_passes():
    assert decisions(Guard(GuardConfig(window=1, spike_factor=0)), [1.0, 1e30, math.inf]) == [True, True, False]


def test_after_a_rewind_the_weights_are_suspect_until_an_update_is_accepted():
    guard = Guard(GuardConfig(max_skips=2, max_rewinds=1))
    decisions(guard, [1.0, 2.0])
    checkpoint = guard.state()
    decisions(guard, [3.0, math.nan, math.nan])
    guard.rewound(checkpoint, step=2)
    assert (guard.norms, guard.rewound_to, guard.is_stable, guard.may_rewind) == ([1.0, 2.0], 2, False, False)
    decisions(guard, [math.nan])
    assert guard.rewound_to == 2, "the next rewind goes further back"
    decisions(guard, [1.0])
    assert (guard.rewound_to, guard.is_stable, guard.rewinds) == (None, True, 1)
