"""Random scans, what a backend makes of them, and Triton's CPU interpreter for the GPU backends."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lingen.ssd import ssd


@pytest.fixture
def scan_inputs():
    """scan_inputs(length, ...) -> (arguments of ssd by name, gradients that its two outputs receive)."""

    def make(length, dtype=torch.float32, batch=2, heads=3, head_dim=8, state=5, seed=0):
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

    return make


@pytest.fixture
def outputs_and_gradients():
    """outputs_and_gradients(backend, leaves, cotangents, **options of ssd) -> tensors by name."""

    def compute(backend, leaves, cotangents, **kwargs):
        y, final = ssd(*leaves.values(), backend=backend, **kwargs)
        gradients = torch.autograd.grad((y, final.float()), list(leaves.values()), cotangents)
        return {"y": y, "final": final, **{f"d{k}": g for k, g in zip(leaves, gradients)}}

    return compute


@pytest.fixture
def check_in_interpreter():
    """check_in_interpreter(backend) runs triton_interpreter.py; skips where the backend's package is missing."""

    def check(backend):
        script = Path(__file__).with_name("triton_interpreter.py")
        done = subprocess.run([sys.executable, script, backend], capture_output=True, text=True, timeout=300)
        if done.returncode == 77:
            pytest.skip(f"{backend}: {done.stdout.strip()}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("ok\n")

    return check
