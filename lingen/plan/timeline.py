"""A step from its pieces: the peak of its memory, its work and its traffic, at any depth of the model.

Layers repeat with a period (four, for rotary scans), and so do their pieces of a ledger. A ledger of a shallow model
thus gives that of a deep one exactly: the pieces of its inner layers, repeated (proven in tests).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from lingen.plan.ledger import KINDS, Collective, Memory, Piece


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one step takes on one rank."""

    peak: dict[str, int]
    """kind of memory -> bytes at the moment when all of them together are most"""
    peak_at: str
    """the piece of the step in which that is"""
    resting: dict[str, int]
    """kind of memory -> bytes between two steps"""
    work: Counter[tuple[float, int, bool]]
    """(FLOPs, bytes, in half precision) of an operator -> calls"""
    collectives: Counter[Collective]
    """calls"""

    @property
    def peak_bytes(self) -> int:
        """The peak, in bytes."""
        return sum(self.peak.values())

    @property
    def flops(self) -> float:
        """FLOPs, recomputation included."""
        return sum(flops * calls for (flops, _, _), calls in self.work.items())

    @property
    def bytes_moved(self) -> int:
        """Bytes that operators read from and write to the card's memory, each run by itself (not compiled)."""
        return sum(size * calls for (_, size, _), calls in self.work.items())

    def gathered(self, name: str = "") -> float:
        """Bytes that collectives (those whose name contains `name`) send and receive per rank."""
        return sum(c.moved * calls for c, calls in self.collectives.items() if name in c.name)


def add_up(pieces: Iterable[Piece]) -> StepCost:
    """What a sequence of pieces takes, one after the other."""
    alive: Counter[str] = Counter()
    peak: dict[str, int] = {}
    highest, peak_at = -1, ""
    work: Counter[tuple[float, int, bool]] = Counter()
    collectives: Counter[Collective] = Counter()
    for piece in pieces:
        change, most, composition = _changes(piece)
        if (total := sum(alive.values())) + most > highest:
            highest, peak_at = total + most, piece.name
            peak = {kind: alive[kind] + composition[kind] for kind in KINDS}
        for kind in change:
            alive[kind] += change[kind]
        work.update(piece.work)
        collectives.update(piece.collectives)
    resting = {kind: alive[kind] for kind in KINDS}
    return StepCost(peak=peak, peak_at=peak_at, resting=resting, work=work, collectives=collectives)


def _changes(piece: Piece) -> tuple[Counter[str], int, Counter[str]]:
    """(change of every kind, the highest rise of them together, every kind's change at that moment)."""
    now: Counter[str] = Counter()
    total = most = 0
    at_most: Counter[str] = Counter()
    for storage, change in piece.changes:
        now[storage.kind or "temporaries"] += change
        total += change
        if total > most:
            most, at_most = total, now.copy()
    return now, most, at_most


def deepened(pieces: Sequence[Piece], depth: int, more: int, period: int) -> list[Piece]:
    """The pieces of a model with more layers.

    Args:
        pieces: of a model with `depth` layers, at least `period` of which are neither the first nor the last.
        depth: its layers.
        more: layers to add, a multiple of the period.
        period: layers after which all repeats.
    """
    assert more % period == 0
    assert more == 0 or depth >= period + 2
    last = depth - 2  # the last inner layer; going backward the repeated ones follow the first of its period
    repeated = range(last - period + 1, last + 1)
    ends = {"state": last, "forward": last, "backward": last - period + 1}
    out: list[Piece] = []
    for at, piece in enumerate(pieces):
        out.append(piece)
        if more and piece.layer is not None and piece.layer == ends.get(piece.name):
            same = (p for p in pieces[: at + 1] if (p.name, p.micro) == (piece.name, piece.micro))
            out += [p for p in same if p.layer in repeated] * (more // period)
    return [*out[:-1], _optimizer_of(out, pieces)] if more else out


def _optimizer_of(deep: Sequence[Piece], shallow: Sequence[Piece]) -> Piece:
    """The last piece for the deep model: work in proportion to the weights, all gradients freed at its end."""

    def total(pieces: Sequence[Piece], kind: str) -> int:
        return sum(change for piece in pieces for storage, change in piece.changes if storage.kind == kind)

    last = deep[-1]
    times = total([p for p in deep if p.name == "state"], "weights")
    times_of = total([p for p in shallow if p.name == "state"], "weights")
    work: Counter[tuple[float, int, bool]] = Counter()
    for (flops, size, half), calls in last.work.items():
        work[flops * times / times_of, size * times // times_of, half] += calls
    freed = total(shallow, "gradients") - total(deep, "gradients")
    changes = [*last.changes, (Memory(0, "gradients"), freed)]
    return dataclasses.replace(last, changes=changes, work=work)
