"""Factorized positions: any size, and grids that stretch by geometry, not by the size of a table."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.model.positions import FactorizedPositions, stretched

SIZE = st.integers(1, 20)


@settings(max_examples=30, deadline=None)
@given(old=st.tuples(SIZE, SIZE, SIZE), new=st.tuples(SIZE, SIZE, SIZE))
def test_any_size_keeps_a_constant_field_constant(old, new):
    positions = FactorizedPositions(old, 6)
    with torch.no_grad():
        for i, table in enumerate(positions.tables):
            table.copy_(torch.arange(6.0) * (i + 1))
    field = torch.arange(6.0) * 6
    torch.testing.assert_close(positions(*new), field.expand(*new, 6))


def test_small_sizes_read_the_first_rows_and_large_ones_stretch_end_to_end():
    positions = FactorizedPositions((5, 4, 3), 8)
    full = positions(5, 4, 3)
    assert torch.equal(positions(1, 2, 2), full[:1, :2, :2])
    grown = positions(9, 4, 3)
    torch.testing.assert_close(grown[[0, -1]], full[[0, -1]])
    torch.testing.assert_close(grown[::2], full)


def places(rows, sizes, scale=1.0):
    """The rows that a grid reads from tables of so many rows, along T, H and W; a fraction lies between two rows."""
    tables = [torch.arange(float(n))[:, None] for n in rows]
    return [table[:, 0] for table in stretched(tables, sizes, scale)]


def test_height_and_width_are_stretched_alike():
    """A wide picture beyond the table's width: today's table of 24 x 24 rows, a grid of 24 x 44 (512p in 16:9)."""
    _, height, width = places((34, 24, 24), (34, 24, 44))
    torch.testing.assert_close(height.diff()[1:-1], width.diff()[1:-1][: len(height) - 3])
    assert height.max() < 14, "rows that a 16:9 model at half the resolution (12 x 22 tokens) has never seen"
    torch.testing.assert_close(width.diff()[1:-1], torch.full((41,), 24 / 44))


def test_at_twice_the_resolution_two_tokens_lie_where_one_was():
    _, height, width = places((34, 24, 24), (34, 24, 44), scale=2.0)
    for axis in (height, width):
        torch.testing.assert_close(axis[1:-1].view(-1, 2).mean(1), torch.arange(0.5, len(axis) // 2 - 1))
    time, *_ = places((34, 24, 24), (68, 4, 4))
    assert (time[0], time[-1]) == (0, 33), "a longer video stretches T end to end"


def test_the_axes_are_told_apart_at_the_start():
    field = FactorizedPositions((6, 6, 6), 48)(6, 6, 6).flatten(0, 2)
    distances = torch.cdist(field, field).fill_diagonal_(torch.inf)
    assert distances.min() > 0.3
    assert field.abs().max().item() == pytest.approx(0.5, abs=1e-3)
