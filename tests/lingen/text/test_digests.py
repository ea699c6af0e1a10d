"""The digest of an encoder changes with every weight and setting, and with nothing else."""

import torch

from lingen.text.digests import weights_digest


def test_weights_and_settings_decide():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    base = weights_digest(model, {"context": 77, "quick_gelu": True})
    assert base == weights_digest(model.eval().requires_grad_(False), {"quick_gelu": True, "context": 77})
    assert base != weights_digest(model, {"context": 76, "quick_gelu": True})
    assert base != weights_digest(model.half(), {"context": 77, "quick_gelu": True})
    with torch.no_grad():
        model.float().bias[0] += 1
    assert base != weights_digest(model, {"context": 77, "quick_gelu": True})
