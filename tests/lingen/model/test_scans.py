"""Scans: exact inverses for every shape, the right orders, the paper's adjacency figure."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.model.scans import ROTATION, SCANS, from_sequence, scan_axes, scan_index, scan_orders, to_sequence

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=60, deadline=None)
@given(shape=SIZES, layer=st.integers(0, 7), scan=st.sampled_from(SCANS))
def test_every_scan_visits_each_token_once_and_inverts(shape, layer, scan):
    x = torch.randn(2, *shape, 3)
    order = scan_orders(scan, shape, (1, 1, 1), "cpu")[layer % 4]
    index, inverse, _ = order or (None, None, None)
    tokens = to_sequence(x, scan, layer, index)
    assert tokens.shape == (2, x[0, ..., 0].numel(), 3)
    assert torch.equal(tokens, x.flatten(1, 3)[:, scan_index(scan, shape, scan_axes(scan, layer))])
    assert torch.equal(from_sequence(tokens, shape, scan, layer, inverse), x)


def test_rms_rotates_the_major_order_and_needs_no_index():
    coordinates = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (2, 3, 4)), indexing="ij"), -1)[None]
    fastest = []
    for layer in range(8):
        first, second = to_sequence(coordinates, "rms", layer)[0, :2]
        fastest.append("THW"[(second - first).nonzero().item()])
    assert "".join(fastest) == "WHTT" * 2
    slowest = ["THW"[ROTATION[layer % 4][0]] for layer in range(4)]
    assert "".join(slowest) == "TTHW"
    assert scan_orders("rms", (2, 3, 4), (1, 1, 1), "cpu") == [None] * 4
    assert all(torch.equal(to_sequence(coordinates, "raster", i), coordinates.flatten(1, 3)) for i in range(4))


@pytest.mark.parametrize(("shape", "scan"), [((1, 6, 5), "zigzag"), ((8, 8, 8), "hilbert")])
def test_steps_between_consecutive_tokens_are_one(shape, scan):
    coordinates = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")).flatten(1)
    steps = coordinates[:, scan_index(scan, shape)].diff(dim=1).abs().sum(0)
    assert (steps == 1).all()


def mean_adjacent_distance(scan: str, layers: int, n: int = 32) -> float:
    """SUP Fig. 1, by brute force over position tables."""
    best = None
    for layer in range(layers):
        position = torch.empty(n**3, dtype=torch.long)
        position[scan_index(scan, (n, n, n), scan_axes(scan, layer))] = torch.arange(n**3)
        position = position.view(n, n, n)
        gaps = torch.cat([position.diff(dim=axis).abs().flatten() for axis in range(3)])
        best = gaps if best is None else torch.minimum(best, gaps)
    return best.double().mean().item()


def test_adjacency_of_rms_is_the_papers_and_equals_zigzag():
    rms = [mean_adjacent_distance("rms", k) for k in (1, 2, 3, 4)]
    assert rms == pytest.approx([352.3333, 342.0, 1.0, 1.0], abs=1e-3)
    assert [mean_adjacent_distance("zigzag", k) for k in (1, 2, 3, 4)] == pytest.approx(rms)
    assert mean_adjacent_distance("raster", 4) == pytest.approx(rms[0])
