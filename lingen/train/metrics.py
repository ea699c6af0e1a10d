"""The metrics of a report: sums over the steps since the last one, added up over ranks only then.

Legend: B samples of this rank, C channels, T/H/W latent axes.
"""

from __future__ import annotations

import math
import resource
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lingen.model.denoiser import DenoiserConfig
from lingen.model.flops import peak_flops, training_flops
from lingen.train.observers.observer import Step

NOISE_LEVELS = 4
"""the loss is also reported by quarter of t: how well each part of the path is learnt"""


class MetricsWindow:
    """Sums over the steps since the last report.

    Attributes:
        seconds: spent waiting for data, in steps altogether ("total"), and on checkpoints between them.
    """

    def __init__(self, architecture: DenoiserConfig, precision: str, device: torch.device):
        self._architecture, self._device = architecture, device
        known = device.type == "cuda" and precision == "bfloat16"
        self._peak = peak_flops(torch.cuda.get_device_name(device)) if known else None
        self._reset()

    def _reset(self) -> None:
        # Rows: all, image, video, then quarters of t. Columns: sum of losses, number of samples.
        self._sums = torch.zeros(3 + NOISE_LEVELS, 2, dtype=torch.float64, device=self._device)
        # Samples, their tokens, those replaced, FLOPs; on the CPU, so that no step waits for a copy to the device.
        self._counts = torch.zeros(4, dtype=torch.float64)
        self.seconds = {"data": 0.0, "total": 0.0, "checkpoint": 0.0}
        self._steps = self._skipped = 0
        self._grad_norm = self._lr = 0.0

    def add(self, step: Step) -> None:
        """Count a step of this rank."""
        self._add_losses(step.loss_B, step.t_B, step.batch.bucket.media == "image")
        self._steps += 1
        self._skipped += step.skip_reason is not None
        self._grad_norm, self._lr = step.grad_norm, step.lr
        self.seconds["data"] += step.waited_s
        self.seconds["total"] += step.seconds
        count, shape = step.batch.latent_BCTHW.shape[0], step.batch.latent_BCTHW.shape[2:]
        tokens, flops = count * math.prod(self._architecture.token_grid(shape)), 0.0
        if self._peak:
            text = sum(mask.shape[1] for _, mask in step.batch.text)
            flops = count * training_flops(self._architecture, shape, text)
        self._counts += torch.tensor([count, tokens, len(step.batch.replaced), flops], dtype=torch.float64)

    def _add_losses(self, loss_B: Tensor, t_B: Tensor, image: bool) -> None:
        finite = loss_B.isfinite()  # the guard deals with the others; one would blank the whole mean
        pairs = torch.stack([loss_B.double().where(finite, 0.0), finite.double()], dim=1)
        self._sums[0] += pairs.sum(0)
        self._sums[1 if image else 2] += pairs.sum(0)
        level = (t_B * NOISE_LEVELS).long().clamp_max(NOISE_LEVELS - 1) + 3
        self._sums.index_add_(0, level, pairs)

    def reduce(self) -> dict[str, float]:
        """Metrics over all ranks since the last call; called by every rank."""
        sums, counts = self._of_all_ranks()
        samples, tokens, replaced, flops = counts.tolist()
        names = ["loss", "loss/image", "loss/video", *(f"loss/t{i}" for i in range(NOISE_LEVELS))]
        metrics = {n: (s / c).item() for n, (s, c) in zip(names, sums) if c > 0}
        seconds = max(self.seconds["total"] + self.seconds["checkpoint"], 1e-9)
        metrics |= {
            "grad_norm": self._grad_norm,
            "lr": self._lr,
            "samples_per_s": samples / seconds,
            "tokens_per_s": tokens / seconds,
            "step_s": self.seconds["total"] / self._steps,
            "data_wait_pct": 100 * self.seconds["data"] / seconds,
            "checkpoint_stall_pct": 100 * self.seconds["checkpoint"] / seconds,
            "skipped_steps": self._skipped,
            "replaced_samples": replaced,
        }
        if self._peak:
            metrics["mfu_pct"] = 100 * flops / seconds / (self._peak * dist.get_world_size())
        if self._device.type == "cuda":
            metrics["memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        else:
            metrics["memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        self._reset()
        return metrics

    def state(self) -> dict[str, Any] | None:
        """The sums since the last report, over all ranks, for a checkpoint between two; called by every rank.

        None right after a report.
        """
        if not self._steps:
            return None
        sums, counts = self._of_all_ranks()
        own = {"steps": self._steps, "skipped": self._skipped, "seconds": dict(self.seconds)}
        return own | {"sums": sums.tolist(), "counts": counts.tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`: the next report covers all its steps, those before the restart too."""
        self._steps, self._skipped, self.seconds = state["steps"], state["skipped"], state["seconds"]
        if dist.get_rank() == 0:  # the sums are of all ranks
            self._sums += self._sums.new_tensor(state["sums"])
            self._counts += self._counts.new_tensor(state["counts"])

    def _of_all_ranks(self) -> tuple[Tensor, Tensor]:
        sums, counts = self._sums.clone(), self._counts.to(self._device, copy=True)
        dist.all_reduce(sums)
        dist.all_reduce(counts)
        return sums, counts
