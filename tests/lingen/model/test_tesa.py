"""TESA: windows cover the grid exactly, nothing leaks, and it equals attention under the window mask."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.model.tesa import TESA, axis_stretches

WINDOW = (4, 2, 3)


def window_ids(grid, window, shift):
    """For each token the number of its window, from coordinates alone."""
    axes = [(torch.arange(n) + s) // w for n, w, s in zip(grid, window, shift)]
    t, h, w = torch.meshgrid(*axes, indexing="ij")
    return (t * 1000 + h) * 1000 + w


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 60), window=st.integers(1, 16), shifted=st.booleans())
def test_stretches_cover_an_axis_once(length, window, shifted):
    shift = window // 2 if shifted else 0
    stretches = axis_stretches(length, window, shift)
    assert stretches[0][0] == 0
    assert all(a[0] + a[1] * a[2] == b[0] for a, b in pairwise(stretches))
    start, count, size = stretches[-1]
    assert start + count * size == length
    ids = [i for i, (_, count, size) in enumerate(stretches) for _ in range(count) for _ in range(size)]
    assert len(ids) == length
    assert all(size <= window for _, _, size in stretches)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(9, 5, 7), (1, 4, 4), (8, 2, 3), (3, 1, 1), (34, 3, 4)])
def test_it_is_attention_masked_to_the_windows(grid, shifted):
    torch.manual_seed(0)
    tesa = TESA(16, 2, WINDOW, shifted)
    x = torch.randn(2, *grid, 16)
    ids = window_ids(grid, tesa.window, tesa.shift).flatten()
    q, k, v = tesa.qkv(x).flatten(1, 3).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=ids[:, None] == ids[None])
    expected = tesa.out(y.transpose(1, 2).flatten(2)).view_as(x)
    torch.testing.assert_close(tesa(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shifted", [False, True])
def test_locality(shifted):
    """A token outside the window changes nothing; each token inside does."""
    torch.manual_seed(0)
    grid = (9, 5, 7)
    tesa = TESA(16, 2, WINDOW, shifted)
    x = torch.randn(1, *grid, 16)
    ids = window_ids(grid, tesa.window, tesa.shift)
    base = tesa(x)
    for place in [(0, 0, 0), (4, 2, 3), (8, 4, 6), (1, 1, 2)]:
        moved = x.clone()
        moved[0][place] += 1.0
        changed = (tesa(moved) - base)[0].abs().amax(-1) > 0
        assert torch.equal(changed, ids == ids[place])


def test_shifted_and_unshifted_layers_meet_at_window_edges():
    """Neighbours that one layer separates are together in the next, along each axis."""
    grid = (16, 8, 9)
    plain, moved = TESA(16, 2, WINDOW, False), TESA(16, 2, WINDOW, True)
    ids = [window_ids(grid, t.window, t.shift) for t in (plain, moved)]
    for axis in range(3):
        apart = [(i.diff(dim=axis) != 0) for i in ids]
        assert not (apart[0] & apart[1]).any()
