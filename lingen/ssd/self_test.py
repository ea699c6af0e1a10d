"""Does the scan compute what it should, here, at this length and dtype? Training asks before it starts.

Kernels fail in ways that a short unit test on another machine cannot see: 32-bit offsets that wrap at long inputs, a
driver or compiler that miscompiles one shape.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from lingen.ssd.backends import resolve_backend
from lingen.ssd.scan import ssd

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 4e-2, torch.float16: 1e-2}
"""Relative error per block of tokens. bfloat16 keeps 8 bits, and split scans round their states at other places."""

BLOCK = 1024
REFERENCE_TOKENS = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What was compared and how far apart it was (largest relative error over blocks of 1024 tokens)."""

    backend: str
    dtype: str
    length: int
    splits: int
    errors: dict[str, float]
    tolerance: float

    def __str__(self) -> str:
        worst = max(self.errors, key=self.errors.get)
        return (
            f"SSD self-test: {self.backend}, {self.dtype}, {self.length} tokens against {self.splits} split scans and "
            f"the float64 reference: largest relative error {self.errors[worst]:.1e} ({worst}), "
            f"allowed {self.tolerance:.0e}"
        )


def self_test(
    *,
    length: int,
    heads: int,
    head_dim: int = 64,
    state: int = 128,
    batch: int = 1,
    backend: str = "auto",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    chunk: int | None = None,
    splits: int = 4,
    seed: int = 0,
) -> SelfTest:
    """Forward and backward of one long scan against `splits` short ones that hand the state (and its gradient) on, in
    both directions; and the first tokens against the sequential float64 reference.

    Raises:
        RuntimeError: they differ by more than the dtype explains, or are not finite.
        ValueError: the backend cannot be used here.
    """
    device = torch.device(device)
    backend = resolve_backend(backend, device)
    random = torch.Generator(device).manual_seed(seed)

    def normal(*shape, scale=1.0):
        return torch.randn(*shape, generator=random, device=device) * scale

    x = normal(batch, length, heads, head_dim).to(dtype)
    dt = torch.nn.functional.softplus(normal(batch, length, heads) - 4)
    A = -torch.exp(torch.linspace(0, 2.77, heads, device=device))  # -1 to -16, Mamba-2's initial range
    B, C = (normal(batch, length, state, scale=state**-0.5).to(dtype) for _ in range(2))
    initial = normal(batch, heads, head_dim, state, scale=0.1)
    dy, dfinal = normal(batch, length, heads, head_dim).to(dtype), normal(batch, heads, head_dim, state)

    def run(name: str, n: int, reverse: bool, parts: int) -> dict[str, Tensor]:
        leaves = {"x": x[:, :n], "dt": dt[:, :n], "A": A, "B": B[:, :n], "C": C[:, :n], "initial": initial}
        leaves = {k: v.detach().clone().requires_grad_() for k, v in leaves.items()}
        pieces = list(zip(*(leaves[k].tensor_split(parts, dim=1) for k in ("x", "dt", "B", "C"))))
        ys, carried = [], leaves["initial"]
        for px, pdt, pB, pC in reversed(pieces) if reverse else pieces:
            y, carried = ssd(px, pdt, leaves["A"], pB, pC, None, carried, reverse=reverse, backend=name, chunk=chunk)
            ys.append(y)
        y = torch.cat(ys[::-1] if reverse else ys, dim=1)
        gradients = torch.autograd.grad((y, carried), list(leaves.values()), (dy[:, :n], dfinal))
        named = {f"gradient of {k}": g for k, g in zip(leaves, gradients)}
        return {"y": y.detach(), "final state": carried.detach(), **named}

    errors: dict[str, float] = {}
    prefix = min(length, REFERENCE_TOKENS)
    for reverse in (False, True):
        direction = "reversed" if reverse else "forward"
        comparisons = {
            "split scans": (run(backend, length, reverse, 1), run(backend, length, reverse, min(splits, length))),
            "reference": (run(backend, prefix, reverse, 1), run("reference", prefix, reverse, 1)),
        }
        for against, (got, expected) in comparisons.items():
            for name in got:
                errors[f"{name}, {direction}, against {against}"] = _block_error(got[name], expected[name])
    result = SelfTest(
        backend=backend,
        dtype=str(dtype).removeprefix("torch."),
        length=length,
        splits=splits,
        errors=errors,
        tolerance=TOLERANCE[dtype],
    )
    if not all(error <= result.tolerance for error in errors.values()):  # written so that a NaN fails
        raise RuntimeError(f"{result}; do not train with this kernel: set ssd_backend to torch, or shorten the input")
    return result


def _block_error(got: Tensor, expected: Tensor) -> float:
    """Largest ||got - expected|| / ||expected|| over blocks of tokens; NaN if anything is.

    Over blocks, so that a few wrong tokens do not drown in a long input.
    """
    got, expected = got.double(), expected.double()
    if got.ndim > 1:  # axis 1 is time, or heads for states
        got, expected = (torch.stack([b.norm() for b in z.split(BLOCK, dim=1)]) for z in (got - expected, expected))
        floor = 0.1 * expected.square().mean().sqrt()
        return (got / torch.maximum(expected, floor).clamp_min(1e-30)).max().item()
    return ((got - expected).norm() / expected.norm().clamp_min(1e-30)).item()
