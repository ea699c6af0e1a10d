"""Choosing a backend: what auto means, refusals in one line, and no graph break."""

import pytest
import torch

from lingen.ssd import backends as registry
from lingen.ssd import check_backend, resolve_backend


def test_backends_are_resolved_and_refused_in_one_line(monkeypatch):
    assert resolve_backend("auto", torch.device("cpu")) == "torch"
    with pytest.raises(ValueError, match="ssd_backend: 'cuda' is unknown; choose one of auto, reference"):
        check_backend("cuda")
    monkeypatch.setattr(registry, "unavailable", lambda name: "fla-core: not installed")
    with pytest.raises(ValueError, match="ssd_backend: fla cannot be used here"):
        check_backend("fla")


@pytest.mark.parametrize(("name", "device"), [("auto", "cuda"), ("auto", "cpu"), ("torch", "cpu")])
def test_choosing_a_backend_does_not_break_the_graph(name, device):
    """On CUDA `auto` tries to import kernel packages, which must not end up in the graph."""
    registry.unavailable.cache_clear()

    def double(x):
        return x * (2 if resolve_backend(name, torch.device(device)) in registry.BACKENDS else 3)

    compiled = torch.compile(double, backend="aot_eager", fullgraph=True)
    assert compiled(torch.ones(2)).tolist() == [2, 2]


def test_auto_takes_the_first_kernel_that_imports_on_cuda(monkeypatch):
    missing = {"mamba_ssm"}
    monkeypatch.setattr(registry, "unavailable", lambda name: "not installed" if name in missing else None)
    assert resolve_backend("auto", torch.device("cuda")) == "fla"
    missing.clear()
    assert resolve_backend("auto", torch.device("cuda")) == "mamba_ssm"
    missing |= {"mamba_ssm", "fla"}
    assert resolve_backend("auto", torch.device("cuda")) == "torch"
