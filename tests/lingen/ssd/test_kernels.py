"""The GPU backends: their adapters in Triton's CPU interpreter, and the kernels themselves where there is a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lingen.ssd import self_test
from lingen.ssd.backends import unavailable


@pytest.mark.parametrize("backend", ["fla", "mamba_ssm"])
def test_adapter_in_the_interpreter(backend):
    script = Path(__file__).with_name("triton_interpreter.py")
    done = subprocess.run([sys.executable, script, backend], capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(f"{backend}: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok\n")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["torch", "fla", "mamba_ssm"])
def test_backend_on_a_gpu(backend, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if reason := unavailable(backend):
        pytest.skip(reason)
    self_test(length=9000, heads=8, backend=backend, dtype=dtype, device="cuda")
