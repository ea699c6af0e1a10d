"""Self-test: does the scan compute the right result on this machine, at this length and dtype? Run before training.

Kernels fail in ways that a short unit test on another machine cannot detect: 32-bit offsets that wrap at long inputs, a
driver or compiler that miscompiles one shape. Letters as in lingen.ssd.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from lingen.ssd.backends import resolve_backend
from lingen.ssd.scan import ssd

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 4e-2, torch.float16: 1e-2}
"""Largest relative error per block. bfloat16 has 8 bits of precision, and split scans round their states elsewhere."""

BLOCK = 1024
"""Tokens over which an error is taken."""
REFERENCE_TOKENS = 96
"""Tokens that are compared with the slow reference."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTest:
    """Outcome of a self-test."""

    backend: str
    dtype: str
    length: int
    """Tokens of the long scan."""
    splits: int
    """Short scans that the long one was compared with."""
    errors: dict[str, float]
    """Largest relative error over blocks of 1024 tokens, by output, direction and comparison."""
    tolerance: float
    """Largest error allowed."""

    def __str__(self) -> str:
        worst = max(self.errors, key=lambda name: self.errors[name])
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
    """Compare a backend with itself in parts, and with the float64 reference; outputs and gradients, both directions.

    One long scan is compared with `splits` short ones that pass the state (and its gradient) on. The first tokens are
    compared with the sequential reference.

    Args:
        length: tokens.
        heads: heads.
        head_dim: channels per head.
        state: state size.
        batch: rows.
        backend: auto or one of BACKENDS.
        dtype: of x, B and C.
        device: where the scan runs.
        chunk: tokens per chunk; None: the backend's default.
        splits: number of short scans.
        seed: of the random inputs.

    Raises:
        RuntimeError: the results differ by more than the dtype explains, or are not finite.
        ValueError: the backend cannot be used here.
    """
    device = torch.device(device)
    backend = resolve_backend(backend, device)
    problem = _Problem.random(batch, length, heads, head_dim, state, dtype, device, seed)
    errors = _errors(problem, backend, chunk, min(splits, length))
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


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Inputs of a scan, and the gradients that its two outputs receive."""

    x_BLHP: Tensor
    dt_BLH: Tensor
    A_H: Tensor
    B_BLN: Tensor
    C_BLN: Tensor
    initial_BHPN: Tensor
    dy_BLHP: Tensor
    dfinal_BHPN: Tensor

    @classmethod
    def random(
        cls,
        batch: int,
        length: int,
        heads: int,
        head_dim: int,
        state: int,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
    ) -> _Problem:
        """Inputs in the range of a freshly initialised Mamba-2."""
        generator = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device) * scale

        x_BLHP = normal(batch, length, heads, head_dim).to(dtype)
        dt_BLH = torch.nn.functional.softplus(normal(batch, length, heads) - 4)
        A_H = -torch.exp(torch.linspace(0, 2.77, heads, device=device))  # -1 to -16, Mamba-2's initial range
        B_BLN, C_BLN = (normal(batch, length, state, scale=state**-0.5).to(dtype) for _ in range(2))
        initial_BHPN = normal(batch, heads, head_dim, state, scale=0.1)
        dy_BLHP = normal(batch, length, heads, head_dim).to(dtype)
        dfinal_BHPN = normal(batch, heads, head_dim, state)
        return cls(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, initial_BHPN, dy_BLHP, dfinal_BHPN)

    def first(self, tokens: int) -> _Problem:
        """The same problem for (at most) the first tokens."""
        return dataclasses.replace(
            self,
            x_BLHP=self.x_BLHP[:, :tokens],
            dt_BLH=self.dt_BLH[:, :tokens],
            B_BLN=self.B_BLN[:, :tokens],
            C_BLN=self.C_BLN[:, :tokens],
            dy_BLHP=self.dy_BLHP[:, :tokens],
        )

    def solve(self, backend: str, chunk: int | None, reverse: bool, parts: int = 1) -> dict[str, Tensor]:
        """Outputs and gradients, by name, of one scan or of several in a row that pass the state on."""
        inputs = {
            "x": self.x_BLHP,
            "dt": self.dt_BLH,
            "A": self.A_H,
            "B": self.B_BLN,
            "C": self.C_BLN,
            "initial": self.initial_BHPN,
        }
        leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
        pieces = list(zip(*(leaves[name].tensor_split(parts, dim=1) for name in ("x", "dt", "B", "C"))))
        ys, state = [], leaves["initial"]
        for x, dt, B, C in reversed(pieces) if reverse else pieces:
            y, state = ssd(x, dt, leaves["A"], B, C, None, state, reverse=reverse, backend=backend, chunk=chunk)
            ys.append(y)
        y = torch.cat(ys[::-1] if reverse else ys, dim=1)
        gradients = torch.autograd.grad((y, state), list(leaves.values()), (self.dy_BLHP, self.dfinal_BHPN))
        named = {f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients)}
        return {"y": y.detach(), "final state": state.detach(), **named}


def _errors(problem: _Problem, backend: str, chunk: int | None, splits: int) -> dict[str, float]:
    """Block errors of a backend by output, direction and comparison."""
    prefix = problem.first(REFERENCE_TOKENS)
    errors = {}
    for reverse in (False, True):
        comparisons = {
            "split scans": (
                problem.solve(backend, chunk, reverse),
                problem.solve(backend, chunk, reverse, splits),
            ),
            "reference": (
                prefix.solve(backend, chunk, reverse),
                prefix.solve("reference", chunk, reverse),
            ),
        }
        direction = "reversed" if reverse else "forward"
        for against, (got, expected) in comparisons.items():
            for name in got:
                errors[f"{name}, {direction}, against {against}"] = _block_error(got[name], expected[name])
    return errors


def _block_error(got: Tensor, expected: Tensor) -> float:
    """Largest ||got - expected|| / ||expected|| over blocks of tokens; NaN if any value is.

    Over blocks, so that a few wrong tokens are not averaged away in a long input.
    """
    got, expected = got.double(), expected.double()
    if got.ndim > 1:  # axis 1 is the sequence, or the heads of a state
        got, expected = (torch.stack([b.norm() for b in z.split(BLOCK, dim=1)]) for z in (got - expected, expected))
        floor = 0.1 * expected.square().mean().sqrt()
        return (got / torch.maximum(expected, floor).clamp_min(1e-30)).max().item()
    return ((got - expected).norm() / expected.norm().clamp_min(1e-30)).item()
