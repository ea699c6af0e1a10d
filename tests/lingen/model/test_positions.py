"""Factorized positions: any size, resizing that keeps what it should."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.model.positions import FactorizedPositions

SIZE = st.integers(1, 20)


@settings(max_examples=30, deadline=None)
@given(old=st.tuples(SIZE, SIZE, SIZE), new=st.tuples(SIZE, SIZE, SIZE))
def test_resizing_keeps_a_constant_field_constant(old, new):
    positions = FactorizedPositions(old, 6)
    with torch.no_grad():
        for i, table in enumerate(positions.tables):
            table.copy_(torch.arange(6.0) * (i + 1))
    field = torch.arange(6.0) * 6
    torch.testing.assert_close(positions(*new), field.expand(*new, 6))
    torch.testing.assert_close(positions.resized(new)(*new), field.expand(*new, 6))


def test_small_sizes_read_the_first_rows_and_large_ones_stretch_end_to_end():
    positions = FactorizedPositions((5, 4, 3), 8)
    full = positions(5, 4, 3)
    assert torch.equal(positions(1, 2, 2), full[:1, :2, :2])
    grown = positions(9, 4, 3)
    torch.testing.assert_close(grown[[0, -1]], full[[0, -1]])
    torch.testing.assert_close(grown[::2], full)


def test_resized_computes_the_same_and_never_shrinks():
    positions = FactorizedPositions((5, 4, 3), 8)
    grown = positions.resized((9, 2, 7))
    assert grown.sizes == (9, 4, 7)
    torch.testing.assert_close(grown(9, 4, 7), positions(9, 4, 7))
    assert all(table.requires_grad for table in grown.tables)


def test_the_axes_are_told_apart_at_the_start():
    field = FactorizedPositions((6, 6, 6), 48)(6, 6, 6).flatten(0, 2)
    distances = torch.cdist(field, field).fill_diagonal_(torch.inf)
    assert distances.min() > 0.3
    assert field.abs().max().item() == pytest.approx(0.5, abs=1e-3)
