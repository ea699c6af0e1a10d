"""The real training step, traced: denoiser, loss, optimizer, averages and sharding as lingen.train has them.

Letters: B samples of a rank, C channels, T/H/W latent axes, L text tokens, D text width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lingen.data.buckets import Bucket
from lingen.data.loader import LatentBatch
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.plan.fake_rank import fake_rank
from lingen.plan.ledger import Memory, Piece, StepLedger
from lingen.plan.timeline import StepCost, add_up, deepened
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.loop import Trainer
from lingen.train.observers.observer import Observers, Step
from lingen.train.optimizer import build_optimizer
from lingen.train.ranks import local
from lingen.train.sharding import shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """All that decides what a step takes on a rank."""

    architecture: DenoiserConfig
    fit: FitConfig
    latent_shape: tuple[int, int, int]
    """(T, H, W) of the samples"""
    samples: int
    """of one rank in one step"""
    ranks: int
    text_tokens: tuple[int, ...] = (77,)
    """of each text encoder"""
    card: bool = True
    """choose operators as on a CUDA card; otherwise as on a CPU"""

    @property
    def micro_batch(self) -> int:
        """Samples that go through the model at once."""
        return min(self.fit.micro_batch or self.samples, self.samples)


def trace(workload: Workload) -> StepCost:
    """What a step of this workload takes, from a trace of a model with as few layers as repeat."""
    wanted = workload.architecture.depth
    period = layer_period(workload.architecture)
    depth = min(wanted, period + 2 + (wanted - period - 2) % period)
    micro_batches = math.ceil(workload.samples / workload.micro_batch)
    architecture = dataclasses.replace(workload.architecture, depth=depth)
    # The first micro-batch finds no gradients, the last one ends the sums; those between are like the last in memory.
    samples = workload.samples if micro_batches <= 2 else 2 * workload.micro_batch
    pieces = trace_pieces(dataclasses.replace(workload, architecture=architecture, samples=samples))
    pieces = deepened(pieces, depth, wanted - depth, period)
    inputs = sum(change for _, change in pieces[0].changes)  # of the whole batch, all of which a rank holds
    pieces[0].changes.append((Memory(0, "activations"), inputs // samples * (workload.samples - samples)))
    return add_up(_with_middle(pieces, micro_batches - 2))


def layer_period(architecture: DenoiserConfig) -> int:
    """Layers after which scans and window shifts repeat."""
    if architecture.mixer == "attention":
        return 1
    return 4 if architecture.ma_branch != "none" else 2


def _with_middle(pieces: Sequence[Piece], more: int) -> list[Piece]:
    """The pieces with `more` micro-batches between the first and the last: work of the last, traffic of the first."""
    if more <= 0:
        return list(pieces)
    first, last = ([p for p in pieces if p.micro == m and p.name not in ("state", "optimizer")] for m in (0, 1))
    middle = [dataclasses.replace(p, changes=[], collectives=f.collectives) for p, f in zip(last, first)]
    at = pieces.index(last[0])
    return [*pieces[:at], *middle * more, *pieces[at:]]


def trace_pieces(workload: Workload) -> list[Piece]:
    """The pieces of the second step of a run (the first one makes the optimizer's state)."""
    fit = dataclasses.replace(workload.fit, compile=False, micro_batch=workload.micro_batch)
    with fake_rank(workload.ranks, workload.card):
        model = Denoiser(workload.architecture)
        shard(model, fit)
        average = EMA(model, fit.ema_decay)
        optimizer = build_optimizer(model, fit)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        return write_step_down(model, average, optimizer, fit, _batch(workload))


def write_step_down(
    model: Denoiser, average: EMA, optimizer: torch.optim.Optimizer, fit: FitConfig, batch: LatentBatch
) -> list[Piece]:
    """Take one step and return its pieces; the first one has what was there before."""
    ledger = StepLedger()
    ledger.add((batch.latent_BCTHW, *(z for text in batch.text for z in text)), "activations")
    _add_state(ledger, model, average, optimizer)
    marks = _Marks(ledger, model)
    step = Step(1, last=False)
    step.batch = batch
    trainer = Trainer(fit, model, average, optimizer, marks, batch.latent_BCTHW.device)
    with ledger:
        trainer.train_step(step)
    marks.remove()
    return ledger.pieces


def _add_state(ledger: StepLedger, model: Denoiser, average: EMA, optimizer: torch.optim.Optimizer) -> None:
    """Note the weights, their averages and the optimizer's state, every layer as a piece of its own."""
    of_layers: dict[int, list[str]] = {}
    for name, _ in model.named_parameters():
        parts = name.split(".")
        of_layers.setdefault(int(parts[1]) if parts[0] == "layers" else -1, []).append(name)
    parameters = dict(model.named_parameters())
    for layer, names in sorted(of_layers.items()):
        ledger.begin("state", None if layer < 0 else layer)
        mine = [parameters[name] for name in names]
        ledger.add(map(local, mine), "weights")
        ledger.add((local(average.weights[name]) for name in names), "averages")
        states = (value for parameter in mine for value in optimizer.state[parameter].values())
        ledger.add((local(value) for value in states if isinstance(value, Tensor)), "optimizer")


class _Marks(Observers):
    """Begins the ledger's pieces: layer by layer forward, layer by layer backward, and what is between."""

    def __init__(self, ledger: StepLedger, model: Denoiser):
        super().__init__([])
        self._ledger, self._model, self._micro, self._in_forward = ledger, model, 0, False
        self._last = len(model.layers) - 1
        self._hooks = []
        for i, layer in enumerate(model.layers):
            self._hooks.append(layer.register_forward_pre_hook(self._before(i), prepend=True))
            # Before FSDP2's: what it prefetches for a layer then belongs to that layer's piece.
            self._hooks.append(layer.register_forward_hook(self._after(i), prepend=True))

    def remove(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def lap(self, part: str) -> None:
        """Called by the loop at the end of a part of a step."""
        ledger, micro = self._ledger, self._micro
        if part == "prepare":
            self._in_forward = True
            ledger.begin("forward", micro=micro)
        elif part == "forward":
            self._in_forward = False
            ledger.name_alive("activations", self._pieces_of(micro))
            ledger.begin("loss", micro=micro)
        elif part == "backward":
            ledger.name_alive("gradients", self._pieces_of(micro))
            ledger.add((local(p.grad) for p in self._model.parameters() if p.grad is not None), "gradients")
            self._micro += 1
            ledger.begin("optimizer", micro=micro)

    def _pieces_of(self, micro: int) -> list[Piece]:
        return [piece for piece in self._ledger.pieces if piece.micro == micro and piece.name != "state"]

    def _before(self, layer: int) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if self._in_forward:
                self._ledger.begin("forward", layer, self._micro)

        return hook

    def _after(self, layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if not self._in_forward:
                return  # recomputed
            micro = self._micro
            output.register_hook(lambda gradient: self._ledger.begin("backward", layer, micro))
            if layer == self._last:
                self._ledger.begin("head", micro=micro)

        return hook


def _batch(workload: Workload) -> LatentBatch:
    """A batch of the right shapes, without content."""
    samples, channels = workload.samples, workload.architecture.latent_channels
    T, H, W = workload.latent_shape
    bucket = Bucket("image", 8 * H, 8 * W) if T == 1 else Bucket("video", 8 * H, 8 * W, 8 * T)
    return LatentBatch(
        step=1,
        bucket=bucket,
        latent_BCTHW=torch.empty(samples, channels, T, H, W),
        text=[
            (torch.empty(samples, length, width), torch.ones(samples, length, dtype=torch.bool))
            for length, width in zip(workload.text_tokens, workload.architecture.text_dims)
        ],
        keys=[str(i) for i in range(samples)],
        seeds=list(range(samples)),
        places=range(samples),
        replaced={},
    )
