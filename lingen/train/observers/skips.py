"""Skipped updates: recorded with their samples in skipped.jsonl, followed by a rewind when too many come in a row."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lingen.io.manifest import whole_lines
from lingen.train.checkpoint import Checkpointer, regular_steps
from lingen.train.observers.checkpoints import PublishCheckpoints
from lingen.train.observers.guard import Guard
from lingen.train.observers.lockstep import Lockstep
from lingen.train.observers.observer import Observer, Step

log = logging.getLogger(__name__)

SKIPPED = "skipped.jsonl"


class Skips(Observer):
    """Withholds the updates that the guard refuses, records their samples, and rewinds after too many in a row.

    Args:
        output: the run's folder.
        publish: publishes a checkpoint in flight before a rewind.
    """

    def __init__(
        self,
        guard: Guard,
        output: Path,
        checkpointer: Checkpointer,
        publish: PublishCheckpoints,
        lockstep: Lockstep,
    ):
        self._guard, self._output, self._publish = guard, output, publish
        self._checkpointer, self._lockstep = checkpointer, lockstep
        self._file = SkippedSteps(output)
        self._in_a_row: list[dict[str, Any]] = []

    def reason_to_skip(self, step: Step) -> str | None:
        return self._guard.reason_to_skip(step.grad_norm)

    def after_step(self, step: Step) -> None:
        if step.skip_reason is not None:
            self._record(step)
        if self._guard.wants_rewind:
            self._publish.wait()
            self._rewind(step.number)

    def _record(self, step: Step) -> None:
        """Record a skipped step with all samples of the global batch; every rank contributes its own."""
        own = list(zip(step.batch.keys, step.loss_B.tolist()))
        samples = [{"key": k, "loss": _json_number(x)} for part in self._lockstep.gather(own) for k, x in part]
        entry = {"event": "skip", "step": step.number, "reason": step.skip_reason, "norm": _json_number(step.grad_norm)}
        entry |= {"bucket": step.batch.bucket.name, "samples": samples}
        self._in_a_row = [*(self._in_a_row if self._guard.skips > 1 else []), entry]
        if dist.get_rank() == 0:
            self._file.add(entry)
            log.warning("step %d is skipped: %s; samples: %s", step.number, step.skip_reason, _suspects([entry]))

    def _rewind(self, step: int) -> None:
        """Load the newest regular checkpoint, or the one before it when the last rewind had no effect.

        Raises:
            FloatingPointError: there is none, or rewinding is no longer allowed; names samples.
        """
        before = self._guard.rewound_to
        found = [s for s in regular_steps(self._checkpointer.folder) if before is None or s < before]
        if not found or not self._guard.may_rewind:
            tried = f"after {self._guard.rewinds} rewinds" if self._guard.rewinds else "and no checkpoint to rewind to"
            raise FloatingPointError(
                f"{self._guard.skips} updates in a row were skipped up to step {step}, {tried} "
                f"({self._in_a_row[-1]['reason']}). Look at these samples: {_suspects(self._in_a_row)} "
                f"(all are in {self._output / SKIPPED}); or lower fit.lr, or raise fit.guard.spike_factor"
            )
        skips = self._guard.skips
        state = self._checkpointer.load(found[-1])["guard"]
        self._guard.rewound(state, found[-1])
        if dist.get_rank() == 0:
            self._file.add({"event": "rewind", "step": step, "to_checkpoint": found[-1]})
            log.warning(
                "%d updates in a row were skipped: rewound to the weights of step %d; the plan continues after step %d",
                skips, found[-1], step,
            )  # fmt: skip


class SkippedSteps:
    """skipped.jsonl in the run's folder: one line per skipped step and per rewind.

    A step replayed after a restart is recorded once.
    """

    def __init__(self, output: Path):
        self._path = output / SKIPPED
        self._seen = {self._key(json.loads(line)) for line in whole_lines(self._path)}

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry (with at least "event" and "step"), unless it is there already."""
        if self._key(entry) in self._seen:
            return
        self._seen.add(self._key(entry))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a") as f:
            f.write(json.dumps(entry) + "\n")

    @staticmethod
    def _key(entry: dict[str, Any]) -> tuple[str, int]:
        return entry["event"], entry["step"]


def _suspects(entries: Sequence[dict[str, Any]], count: int = 8) -> str:
    """The samples with non-finite losses, then those with the largest."""
    samples = {s["key"]: s["loss"] for entry in entries for s in entry["samples"]}
    worst = sorted(samples, key=lambda k: -samples[k] if isinstance(samples[k], float) else -math.inf)
    more = f" and {len(worst) - count} more" if len(worst) > count else ""
    return ", ".join(f"{k} (loss {samples[k]})" for k in worst[:count]) + more


def _json_number(value: float) -> float | str:
    """The value, or its name where JSON has none: nan and infinity."""
    return value if math.isfinite(value) else str(value)
