"""Peaks and repeated layers, on pieces made by hand."""

from lingen.plan.ledger import Collective, Memory, Piece
from lingen.plan.timeline import add_up, deepened


def pieces(depth: int) -> list[Piece]:
    """Every layer has 10 bytes of weights, keeps 5 and needs 100 while it goes back, and leaves 2 of gradients."""
    kept = [Memory(0, "activations") for _ in range(depth)]
    gradients = [Memory(0, "gradients") for _ in range(depth)]
    out = [Piece("state"), *(Piece("state", i, changes=[(Memory(0, "weights"), 10)]) for i in range(depth))]
    out += [Piece("forward", i, changes=[(kept[i], 5)]) for i in range(depth)]
    for i in reversed(range(depth)):
        recomputed = Memory(0, "temporaries")
        changes = [(recomputed, 100), (gradients[i], 2), (recomputed, -100), (kept[i], -5)]
        out.append(Piece("backward", i, changes=changes))
        out[-1].work[7.0, 3, True] += 1
        out[-1].collectives[Collective("allgather_base", 4, 1000)] += 1
    out.append(Piece("optimizer", changes=[(g, -2) for g in gradients]))
    out[-1].work[0.0, 10 * depth, True] += 1
    return out


def test_the_peak_is_the_highest_moment_and_knows_what_it_is_made_of():
    step = add_up(pieces(6))
    by_hand = {"weights": 60, "gradients": 2, "activations": 30, "temporaries": 100, "optimizer": 0, "averages": 0}
    assert step.peak == by_hand
    assert step.peak_at == "backward"
    assert step.resting == {**dict.fromkeys(by_hand, 0), "weights": 60}
    assert (step.flops, step.bytes_moved, step.gathered("gather")) == (42, 18 + 60, 6 * 750)


def test_a_deep_model_is_a_shallow_one_with_its_inner_layers_repeated():
    deep, by_hand = add_up(deepened(pieces(6), 6, 12, 4)), add_up(pieces(18))
    assert deep == by_hand
