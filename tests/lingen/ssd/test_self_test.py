"""The self-test accepts a correct backend and refuses wrong ones; on a GPU it checks every backend."""

import dataclasses

import pytest
import torch

from lingen.ssd import BACKENDS, self_test
from lingen.ssd.backends import unavailable


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


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["torch", "fla", "mamba_ssm"])
def test_backend_on_a_gpu(backend, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if reason := unavailable(backend):
        pytest.skip(reason)
    self_test(length=9000, heads=8, backend=backend, dtype=dtype, device="cuda")
