"""MATE's global branch: reach, review tokens, time reversal; both Mambas against their plain definitions."""

import pytest
import torch
import torch.nn.functional as F

from lingen.model.mamba1 import BidirectionalMamba1, selective_scan
from lingen.model.mamba2 import BidirectionalMamba2, causal_conv
from lingen.model.mate import MABranch
from lingen.model.review import review_grid, review_tokens

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
def test_the_directions_are_two_scans_of_their_own(kind):
    """With the reversed pass silenced, a token sees only what comes before it, and the review."""
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


@pytest.mark.parametrize("pool", [(2, 2, 2), (3, 2, 4), (8, 4, 4)])
@pytest.mark.parametrize("grid", [(5, 3, 7), (1, 4, 4), (8, 4, 8), (9, 1, 5)])
def test_review_tokens_average_what_the_window_holds(grid, pool):
    x = torch.randn(2, *grid, 3)
    got = review_tokens(x, pool)
    assert got.shape == (2, *review_grid(grid, pool), 3)
    T, H, W = (-(-n // p) for n, p in zip(grid, pool))
    for t in range(T):
        for h in range(H):
            for w in range(W):
                box = x[:, t * pool[0] :][:, : pool[0], h * pool[1] :][:, :, : pool[1], w * pool[2] :][
                    ..., : pool[2], :
                ]
                torch.testing.assert_close(got[:, t, h, w], box.mean((1, 2, 3)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_causal_conv_is_a_plain_conv1d(reverse):
    x, conv = torch.randn(2, 11, 6), torch.nn.Conv1d(6, 6, 4, groups=6)
    y = causal_conv(x, conv.weight, conv.bias, reverse)
    z = x.flip(1) if reverse else x
    expected = F.conv1d(F.pad(z.transpose(1, 2), (3, 0)), conv.weight, conv.bias, groups=6).transpose(1, 2)
    torch.testing.assert_close(y, expected.flip(1) if reverse else expected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 9, 1030])  # 1030: more than one segment
def test_selective_scan_is_its_definition(length, reverse):
    torch.manual_seed(0)
    x, dt = torch.randn(2, length, 3), torch.rand(2, length, 3)
    A, (B, C) = -torch.rand(3, 4), torch.randn(2, 2, length, 4)
    leaves = [z.requires_grad_() for z in (x, dt, A, B, C)]
    y, final = selective_scan(*leaves, reverse=reverse)
    state, ys = torch.zeros(2, 3, 4), [None] * length
    for i in reversed(range(length)) if reverse else range(length):
        state = (dt[:, i, :, None] * A).exp() * state + (dt[:, i] * x[:, i])[..., None] * B[:, i, None]
        ys[i] = (state * C[:, i, None]).sum(-1)
    expected = torch.stack(ys, 1)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(final, state, atol=1e-5, rtol=1e-4)
    weight = torch.randn_like(y)
    for got, want in zip(
        torch.autograd.grad((y * weight).sum(), leaves), torch.autograd.grad((expected * weight).sum(), leaves)
    ):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


def test_an_impossible_head_dim_is_refused():
    with pytest.raises(ValueError, match="ssm_head_dim: 24 does not divide the inner width 64"):
        BidirectionalMamba2(64, head_dim=24)


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
