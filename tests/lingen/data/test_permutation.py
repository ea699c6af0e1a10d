from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.data.permutation import hash_integers, mix_bits, permute


@given(st.integers(1, 5000), st.integers(0, 2**64))
@settings(deadline=None)
def test_permute_is_a_permutation(n, key):
    assert np.array_equal(np.sort(permute(np.arange(n, dtype=np.uint64), n, key)), np.arange(n))


def test_permute_reaches_far_sizes():
    n = 300_000_001
    rows = permute(np.arange(n - 5000, n, dtype=np.uint64), n, key=1)
    assert len(set(rows.tolist())) == 5000
    assert 0 <= rows.min() <= rows.max() < n
    assert abs(rows.mean() / n - 0.5) < 0.02


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_permutations_of_few_places_are_fair(n):
    """Chi-square of where each place goes over 1000 keys, against its 99.99% bound."""
    counts = np.zeros((n, n))
    for key in range(1000):
        counts[np.arange(n), permute(np.arange(n, dtype=np.uint64), n, key)] += 1
    chi2 = ((counts - 1000 / n) ** 2 / (1000 / n)).sum()
    freedom = (n - 1) ** 2
    assert chi2 < freedom + 4.5 * np.sqrt(2 * freedom) + 12


def test_all_orders_of_four_are_equally_likely():
    counts = Counter(tuple(permute(np.arange(4, dtype=np.uint64), 4, key)) for key in range(1200))
    assert len(counts) == 24
    assert sum((n - 50) ** 2 / 50 for n in counts.values()) < 60  # chi-square, 23 degrees of freedom


def test_neighbours_do_not_stay_neighbours():
    orders = [permute(np.arange(1000, dtype=np.uint64), 1000, key) for key in range(200)]
    assert 0.75 < np.mean([(np.diff(order) == 1).sum() for order in orders]) < 1.25  # 1 in a fair shuffle
    assert abs(np.mean([np.corrcoef(order[:-1], order[1:])[0, 1] for order in orders])) < 0.01


@pytest.mark.parametrize(
    ("n", "places"),
    [
        (63, [20, 60, 4, 39]),
        (64, [5, 45, 46, 23]),
        (65, [56, 7, 39, 45]),
        (127, [44, 116, 50, 93]),
        (128, [21, 93, 57, 69]),
        (1000, [694, 735, 67, 453]),
    ],
)
def test_the_permutation_is_what_it_was(n, places):
    """Resumed runs rely on it; the sizes are those beside powers of two, where the network's width changes."""
    assert permute(np.array([0, 1, n // 2, n - 1], np.uint64), n, 7).tolist() == places


def test_mixing_is_splitmix64():
    """The first outputs of the reference implementation, seed 0 (Vigna, splitmix64.c)."""
    states = np.array([0, 0x9E3779B97F4A7C15, 2 * 0x9E3779B97F4A7C15 % 2**64], np.uint64)
    assert mix_bits(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_hashed_integers_depend_on_the_name_and_fill_64_bits():
    values = [hash_integers(f"name/{i}", 2) for i in range(500)]
    assert hash_integers("name/7", 2) == values[7]
    assert len({x for pair in values for x in pair}) == 1000
    assert all(0 <= x < 2**64 for pair in values for x in pair)
    assert any(x >= 2**63 for pair in values for x in pair)
