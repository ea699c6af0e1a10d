"""The fla backend: its mapping onto gated linear attention, and its kernels in Triton's CPU interpreter."""

import sys
import types
from pathlib import Path

import pytest
import torch

from lingen.ssd import fla
from lingen.ssd.reference import ssd_reference


def naive_gla(q, k, v, g, scale, initial_state, output_final_state, chunk_size):
    """Simple gated linear attention by its definition (fla.ops.simple_gla.naive)."""
    state, ys = initial_state, []
    for i in range(q.shape[1]):
        state = g[:, i, :, None, None].exp() * state + k[:, i, :, :, None] * v[:, i, :, None]
        ys.append(scale * (q[:, i, :, :, None] * state).sum(-2))
    return torch.stack(ys, 1), state


@pytest.mark.parametrize("reverse", [False, True])
def test_ssd_is_gated_linear_attention(scan_inputs, monkeypatch, reverse):
    monkeypatch.setattr(fla, "load", lambda: naive_gla)
    x, dt, A, B, C, _, initial = (z.detach() for z in scan_inputs(21)[0].values())
    y, final = fla.scan(x, dt, A, B, C, initial, reverse, 16)
    expected_y, expected_final = ssd_reference(x, dt, A, B, C, initial, reverse)
    torch.testing.assert_close(y, expected_y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(final, expected_final, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("version", "kernel"),
    [
        ("0.4", lambda q, k, v, g, scale, initial_state, output_final_state: None),
        ("0.5", lambda q, k, v, g, scale, initial_state, output_final_state, **options: None),
    ],
)
def test_versions_that_cannot_set_the_chunk_size_are_refused(monkeypatch, version, kernel):
    """0.4 would fail in the first step of training; 0.5 would silently take chunks of its own."""
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    package = types.ModuleType("fla.ops.simple_gla")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    package.chunk_simple_gla = naive_gla
    assert fla.load() is naive_gla
    package.chunk_simple_gla = kernel
    with pytest.raises(ImportError, match=r"0\.6 or newer is needed"):
        fla.load()
    assert 'fla-core>=0.6"' in (Path(__file__).parents[3] / "pyproject.toml").read_text()


@pytest.mark.slow
def test_kernels_in_the_interpreter(check_in_interpreter):
    check_in_interpreter("fla")
