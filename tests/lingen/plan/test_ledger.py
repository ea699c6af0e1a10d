"""The ledger of a few operators, counted by hand."""

import pytest
import torch

from lingen.plan.ledger import Collective, Piece, StepLedger


def total(piece: Piece) -> int:
    return sum(change for _, change in piece.changes)


def test_flops_traffic_and_bytes_of_a_product_by_hand():
    x, w = torch.zeros(4, 8), torch.zeros(8, 2)
    ledger = StepLedger()
    ledger.add([x, w], "weights")
    ledger.begin("forward")
    with ledger:
        y = x @ w  # 2 * 4 * 8 * 2 FLOPs; reads 32 + 16 numbers, writes 8
        del y
        torch.zeros(1000).add_(1)
    (state, forward) = ledger.pieces
    assert total(state) == 4 * (32 + 16)
    assert [change for _, change in forward.changes] == [32, -32, 4000, -4000]
    assert forward.work[128, 4 * (32 + 16 + 8), False] == 1
    assert forward.work[0, 4000, True] == 1  # zeros: written
    assert forward.work[0, 8000, True] == 1 or forward.work[0, 12000, True] == 1  # add_: read and written


def test_views_take_no_memory_and_no_traffic():
    x = torch.zeros(4, 8)
    ledger = StepLedger()
    ledger.add([x], "weights")
    with ledger:
        y = x.view(8, 4).t()[2:]
    assert total(ledger.pieces[0]) == 128
    assert not ledger.pieces[0].work
    del y


def test_what_is_freed_after_the_step_is_not_of_the_step():
    ledger = StepLedger()
    with ledger:
        x = torch.ones(10)
    del x
    assert total(ledger.pieces[-1]) == 40


@pytest.mark.parametrize(
    ("name", "moved"), [("allgather_base", 750), ("reduce_scatter_base", 750), ("allreduce", 1500)]
)
def test_what_a_ring_of_four_moves(name, moved):
    assert Collective(name, 4, 1000).moved == moved
