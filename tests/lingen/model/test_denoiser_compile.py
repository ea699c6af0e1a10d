"""torch.compile per layer: the whole layer is one graph, and compiled equals eager, gradients included."""

import dataclasses

import pytest
import torch

from lingen.model.denoiser import Denoiser, DenoiserConfig

pytestmark = pytest.mark.slow

SMALL = DenoiserConfig(
    width=32,
    depth=2,
    heads=2,
    latent_channels=4,
    text_dims=(12,),
    tesa_window=(4, 2, 2),
    review_pool=(2, 2, 2),
    mamba2_state=8,
    mamba1_state=4,
    ssm_head_dim=16,
    position_sizes=(4, 4, 4),
)


def run(model):
    torch.manual_seed(1)
    text = [(torch.randn(1, 3, 12), torch.ones(1, 3, dtype=torch.bool))]
    y = model(torch.randn(1, 4, 3, 4, 6), torch.rand(1), text)
    model.zero_grad()
    y.square().sum().backward()
    return y.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def check(changes, backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Denoiser(dataclasses.replace(SMALL, **changes))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    eager, eager_gradients = run(model)
    for layer in model.layers:
        layer.compile(backend=backend, fullgraph=True)  # a graph break would raise
    compiled, gradients = run(model)
    torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-4)
    for name, gradient in eager_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    "changes",
    [{}, {"ma_branch": "mamba1", "depth": 1}, {"scan": "zigzag", "depth": 1}, {"mixer": "attention", "depth": 1}],
    ids=str,
)
def test_a_layer_is_one_graph(changes):
    """Captured and differentiated ahead of time; the operations themselves run eagerly, which keeps this fast."""
    check(changes, "aot_eager")


def test_generated_code_equals_eager():
    """Inductor's code, for the default layer (one, of a single attention window: generating code takes a while)."""
    check({"depth": 1, "tesa_window": (4, 4, 4)}, "inductor")
