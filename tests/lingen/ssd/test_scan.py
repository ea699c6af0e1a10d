"""The scan: every backend against the float64 definition, states and gradients included; splitting; the self-test."""

import dataclasses

import pytest
import torch

from lingen.ssd import BACKENDS, check_backend, headroom, int32_headroom, max_tokens, resolve_backend, self_test, ssd
from lingen.ssd import backends as registry
from lingen.ssd.recurrence import linear_recurrence


def inputs(length, dtype=torch.float32, batch=2, heads=3, head_dim=8, state=5, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    leaves = {
        "x": normal(batch, length, heads, head_dim).to(dtype),
        "dt": torch.nn.functional.softplus(normal(batch, length, heads)),
        "A": -torch.exp(normal(heads)),
        "B": normal(batch, length, state).to(dtype),
        "C": normal(batch, length, state).to(dtype),
        "D": normal(heads),
        "initial": normal(batch, heads, head_dim, state),
    }
    leaves = {k: v.requires_grad_() for k, v in leaves.items()}
    cotangents = normal(batch, length, heads, head_dim).to(dtype), normal(batch, heads, head_dim, state)
    return leaves, cotangents


def outputs_and_gradients(backend, leaves, cotangents, **kwargs):
    y, final = ssd(*leaves.values(), backend=backend, **kwargs)
    gradients = torch.autograd.grad((y, final.float()), list(leaves.values()), cotangents)
    return {"y": y, "final": final, **{f"d{k}": g for k, g in zip(leaves, gradients)}}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("length", "chunk"), [(1, 16), (7, 16), (16, 16), (37, 16), (65, 8), (130, 64)])
def test_chunked_equals_the_definition(length, chunk, dtype, reverse):
    leaves, cotangents = inputs(length, dtype)
    got = outputs_and_gradients("torch", leaves, cotangents, chunk=chunk, reverse=reverse)
    expected = outputs_and_gradients("reference", leaves, cotangents, reverse=reverse)
    for name in expected:
        a, b = got[name].double(), expected[name].double()
        limit = 3e-2 if dtype == torch.bfloat16 else 1e-4
        assert (a - b).norm() <= limit * b.norm(), name
    assert got["y"].dtype == dtype
    assert got["final"].dtype == torch.float32


def test_the_definition_by_hand():
    one = torch.ones(1, 3, 1)
    y, final = ssd(
        torch.tensor([1.0, 0.0, 2.0]).view(1, 3, 1, 1), one, -torch.tensor([0.5]), one, 3 * one, backend="reference"
    )
    decay = torch.tensor(-0.5).exp()
    torch.testing.assert_close(y.flatten(), 3 * torch.stack([one[0, 0, 0], decay, decay**2 + 2]))
    torch.testing.assert_close(final.flatten()[0], decay**2 + 2)


def test_reversed_is_flipped():
    leaves, _ = inputs(41)
    x, dt, A, B, C, D, initial = leaves.values()
    y, final = ssd(*leaves.values(), reverse=True, chunk=8)
    z, last = ssd(*(v.flip(1) for v in (x, dt)), A, *(v.flip(1) for v in (B, C)), D, initial, chunk=8)
    torch.testing.assert_close(y, z.flip(1))
    torch.testing.assert_close(final, last)


def test_strong_decay_neither_overflows_nor_leaks():
    leaves, cotangents = inputs(64)
    leaves["dt"] = (leaves["dt"].detach() + 50).requires_grad_()
    for value in outputs_and_gradients("torch", leaves, cotangents, chunk=32).values():
        assert value.isfinite().all()


@pytest.mark.parametrize("reverse", [False, True])
def test_an_input_too_long_for_32_bit_offsets_goes_through_in_parts(monkeypatch, reverse):
    """A backend with the limit of 32-bit kernels, here lowered to 1,000 elements, gives the result of one call."""
    calls = []

    def scan(x, *args):
        calls.append(x.numel())
        return BACKENDS["torch"].scan(x, *args)

    monkeypatch.setitem(BACKENDS, "narrow", dataclasses.replace(BACKENDS["torch"], name="narrow", scan=scan, chunk=4))
    monkeypatch.setattr(headroom, "INT32_BACKENDS", frozenset({"narrow"}))
    monkeypatch.setattr(headroom, "INT32_LIMIT", 1000)
    leaves, cotangents = inputs(131)
    got = outputs_and_gradients("narrow", leaves, cotangents, reverse=reverse)
    assert len(calls) > 5
    assert max(calls) <= 1000
    for name, value in outputs_and_gradients("torch", leaves, cotangents, reverse=reverse).items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_headroom_counts_the_papers_longest_stage():
    shape = {"heads": 80, "head_dim": 64, "state": 128}  # E = 2
    used = int32_headroom("mamba_ssm", batch=1, length=143_616, **shape)
    assert used == pytest.approx(143_616 * 5120 / 2**31, rel=1e-3)
    assert int32_headroom("mamba_ssm", batch=4, length=143_616, **shape) > 1
    longest = max_tokens("mamba_ssm", batch=1, **shape)
    assert 410_000 < longest < 420_000  # notes/training.md: about 419k tokens x batch when contiguous
    assert int32_headroom("mamba_ssm", batch=1, length=longest, **shape) <= 1
    assert max_tokens("fla", batch=8, **shape) is None
    with pytest.raises(ValueError, match="lower the batch"):
        max_tokens("mamba_ssm", batch=10_000, **shape)


@pytest.mark.parametrize("length", [1, 100, 2500])
def test_self_test_passes_for_a_right_backend(length):
    result = self_test(length=length, heads=2, head_dim=8, state=8, backend="torch", chunk=32)
    assert max(result.errors.values()) < result.tolerance
    assert f"{length} tokens" in str(result)


@pytest.mark.parametrize("fault", ["wrong at long lengths", "drops the state's gradient", "nan in the last token"])
def test_self_test_refuses_a_wrong_backend(monkeypatch, fault):
    def scan(x, dt, A, B, C, initial, reverse, chunk):
        if fault == "drops the state's gradient":
            initial = initial.detach() + 0 * initial
        y, final = BACKENDS["torch"].scan(x, dt, A, B, C, initial, reverse, chunk)
        if fault == "wrong at long lengths" and x.shape[1] > 3000:
            y = torch.cat([y[:, :-20], y[:, :20] + 0 * y[:, -20:]], dim=1)  # as wrapped offsets would
        if fault == "nan in the last token":
            y = torch.cat([y[:, :-1], y[:, -1:] * torch.nan], dim=1)
        return y, final

    monkeypatch.setitem(BACKENDS, "broken", dataclasses.replace(BACKENDS["torch"], name="broken", scan=scan))
    with pytest.raises(RuntimeError, match="do not train with this kernel"):
        self_test(length=4000, heads=2, head_dim=8, state=8, backend="broken")


def test_backends_are_resolved_and_refused_in_one_line(monkeypatch):
    assert resolve_backend("auto", torch.device("cpu")) == "torch"
    with pytest.raises(ValueError, match="ssd_backend: 'cuda' is unknown; choose one of auto, reference"):
        check_backend("cuda")
    monkeypatch.setattr(registry, "unavailable", lambda name: "fla-core: not installed")
    with pytest.raises(ValueError, match="ssd_backend: fla cannot be used here"):
        check_backend("fla")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9, 10, 17])
def test_linear_recurrence(steps, reverse):
    decay, value, initial = torch.rand(2, steps, 3, 1), torch.randn(2, steps, 3, 4), torch.randn(2, 3, 4)
    before, last = linear_recurrence(decay, value, initial, reverse)
    state = initial
    for c in reversed(range(steps)) if reverse else range(steps):
        torch.testing.assert_close(before[:, c], state)
        state = decay[:, c] * state + value[:, c]
    torch.testing.assert_close(last, state)
