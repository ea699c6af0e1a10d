"""The gradient guard: gradients that are not finite, or far larger than usual, change no weights.

After several skips in a row the weights themselves are suspect, and training rewinds: weights, moments and averages go
back to a checkpoint, the batch plan does not. Training continues with the step after the last skipped one, so that no
batch is seen twice and a rewind cannot loop; the batches in between are given up, as in PaLM's training
(arXiv:2204.02311, 5.1). When the next update is skipped as well, the next rewind goes one checkpoint further back.

Every decision depends on the gradient norms alone, and the state is in the checkpoint: a run that was stopped and
resumed, on any number of workers, skips and rewinds where an undisturbed one does.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Which updates are skipped, and when training rewinds."""

    spike_factor: float = 10.0
    """skip an update whose gradient norm is more than this many times the median of recent ones; 0: only non-finite"""
    window: int = 50
    """number of accepted norms in that median; spikes are detected only once there are this many"""
    max_skips: int = 10
    """skips in a row after which training rewinds to a checkpoint"""
    max_rewinds: int = 3
    """rewinds in a stage; when one more is needed, training stops with an error"""

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("max_skips", 1), ("max_rewinds", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"fit.guard.{name}: must be at least {least}, got {getattr(self, name)}")
        if self.spike_factor != 0 and not self.spike_factor > 1:
            raise ValueError(f"fit.guard.spike_factor: must be more than 1 (or 0 for none), got {self.spike_factor}")


class Guard:
    """Accepts or refuses every update.

    Attributes:
        norms: the accepted gradient norms that the usual one is the median of, oldest first.
        skips: skips in a row so far.
        rewinds: rewinds so far in this stage.
        rewound_to: step of the last rewind's checkpoint while no update has been accepted since; else None.
    """

    def __init__(self, config: GuardConfig):
        self.config = config
        self.norms: list[float] = []
        self.skips = self.rewinds = 0
        self.rewound_to: int | None = None

    def reason_to_skip(self, norm: float) -> str | None:
        """What is wrong with an update of this gradient norm; None accepts it."""
        reason = None
        if not math.isfinite(norm):
            reason = "the gradient is not finite"
        elif self.config.spike_factor and len(self.norms) == self.config.window:
            usual = statistics.median(self.norms)
            if norm > self.config.spike_factor * usual:
                reason = f"gradient norm {norm:.4g} is {norm / max(usual, 1e-30):.3g} times the usual {usual:.4g}"
        if reason is None:
            self.norms = [*self.norms, norm][-self.config.window :]
            self.skips, self.rewound_to = 0, None
        else:
            self.skips += 1
        return reason

    @property
    def wants_rewind(self) -> bool:
        """Whether so many updates in a row were skipped that training should rewind."""
        return self.skips >= self.config.max_skips

    @property
    def is_stable(self) -> bool:
        """Whether the last update was accepted; otherwise the weights are suspect, and no place to rewind to."""
        return self.skips == 0 and self.rewound_to is None

    @property
    def may_rewind(self) -> bool:
        """Whether another rewind is allowed in this stage."""
        return self.rewinds < self.config.max_rewinds

    def rewound(self, checkpoint: dict[str, Any], step: int) -> None:
        """Count a rewind, and restore the norms of its checkpoint.

        Args:
            checkpoint: the `state()` in the checkpoint.
            step: the checkpoint's step.
        """
        self.norms = list(checkpoint["norms"])
        self.skips, self.rewinds, self.rewound_to = 0, self.rewinds + 1, step

    def state(self) -> dict[str, Any]:
        """All that decides what follows, JSON-able."""
        names = ("norms", "skips", "rewinds", "rewound_to")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, value in state.items():
            setattr(self, name, value)
