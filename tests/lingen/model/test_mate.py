"""MATE's global branch, with either Mamba: reach, review tokens, time reversal; and the sum of the branches."""

import pytest
import torch

from lingen.model.mamba1 import BidirectionalMamba1
from lingen.model.mamba2 import BidirectionalMamba2
from lingen.model.mate import MATE, MABranch
from lingen.model.tesa import TESA

GRID, WIDTH = (4, 4, 6), 16


def mamba(kind):
    torch.manual_seed(0)
    if kind == "mamba2":
        return BidirectionalMamba2(WIDTH, state=8, head_dim=8, chunk=8)
    return BidirectionalMamba1(WIDTH, state=4)


@pytest.mark.parametrize("kind", ["mamba2", "mamba1"])
@pytest.mark.parametrize("scan", ["rms", "raster"])
@pytest.mark.parametrize("pool", [(2, 2, 2), None])
@pytest.mark.parametrize("layer", range(4))
def test_each_token_reaches_every_other(kind, scan, pool, layer):
    branch = MABranch(mamba(kind).double(), scan, layer, pool)
    x = torch.randn(1, *GRID, WIDTH, dtype=torch.double)
    base = branch(x)
    for place in [(0, 0, 0), (3, 3, 5), (1, 2, 3)]:
        moved = x.clone()
        moved[0][place] += torch.linspace(1, 2, WIDTH, dtype=torch.double)
        assert ((branch(moved) - base).abs().amax(-1) > 0).all()


@pytest.mark.parametrize("kind", ["mamba2", "mamba1"])
@pytest.mark.parametrize("pool", [(2, 2, 2), None])
def test_time_reversal_swaps_the_directions(kind, pool):
    branch = MABranch(mamba(kind), "raster", 0, pool)
    x = torch.randn(2, *GRID, WIDTH)
    straight = branch(x)
    m = branch.mamba
    m.forwards, m.backwards = m.backwards, m.forwards
    torch.testing.assert_close(branch(x.flip(1, 2, 3)).flip(1, 2, 3), straight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mamba2", "mamba1"])
def test_the_directions_are_two_independent_scans(kind):
    """With the reversed pass silenced, a token sees only the tokens before it, and the review."""
    m = mamba(kind)
    with torch.no_grad():
        m.backwards.D.zero_()
        m.backwards.dt_bias.fill_(-1e4)  # softplus -> 0: nothing enters the state
        if kind == "mamba1":
            m.backwards.dt_proj.weight.zero_()
    u = torch.randn(1, 20, WIDTH)
    moved = u.clone()
    moved[0, 12] += 1
    changed = (m(moved) - m(u))[0].abs().amax(-1) > 1e-9
    assert not changed[:12].any()
    assert changed[12:].all()
    review = u.clone()
    review[0, :3] += 1  # the opening copy of three review tokens
    assert ((m(review, 3, 3) - m(u, 3, 3))[0].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("kind", ["mamba2", "mamba1"])
def test_a_review_in_one_pass_reaches_no_reversed_output(kind):
    """The reversed pass of [review, tokens] meets the review last: tokens see it through the forward pass alone."""
    m = mamba(kind)
    with torch.no_grad():
        m.forwards.D.zero_()
        m.forwards.dt_bias.fill_(-1e4)
        if kind == "mamba1":
            m.forwards.dt_proj.weight.zero_()
    u = torch.randn(1, 20, WIDTH)
    moved = u.clone()
    moved[0, :3] += 1
    assert torch.equal(m(moved, 3, 0), m(u, 3, 0))
    closing = u.clone()
    closing[0, -3:] += 1
    assert ((m(closing, 3, 3) - m(u, 3, 3))[0].abs().amax(-1) > 0).all()


def test_mate_is_the_sum_of_its_branches():
    ma, tesa = MABranch(mamba("mamba2"), "rms", 1, (2, 2, 2)), TESA(WIDTH, 2, (2, 2, 2), shifted=True)
    x = torch.randn(2, *GRID, WIDTH)
    torch.testing.assert_close(MATE(ma, tesa)(x), ma(x) + tesa(x))
    assert torch.equal(MATE(ma, None)(x), ma(x))
    assert torch.equal(MATE(None, tesa)(x), tesa(x))
