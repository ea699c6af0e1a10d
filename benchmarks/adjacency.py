"""How close do scans keep adjacent tokens? SUP Fig. 1: at 32^3, over the first k layers, the least distance in the
sequence between two neighbours, averaged over all neighbours. Exact, so nothing here depends on the machine.

    python benchmarks/adjacency.py          # writes benchmarks/results/adjacency.json and docs/adjacency.svg
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch

from lingen.model.scans import SCANS, scan_axes, scan_index

RESULT = Path(__file__).parent / "results" / "adjacency.json"
PLOT = Path(__file__).parents[1] / "docs" / "adjacency.svg"
AXIS = [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
CUBE = [d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]  # each pair within a 2x2x2 cube once


def positions(scan: str, layer: int, n: int) -> torch.Tensor:
    """Position in the sequence of each token of the n^3 grid."""
    place = torch.empty(n**3, dtype=torch.long)
    place[scan_index(scan, (n, n, n), scan_axes(scan, layer))] = torch.arange(n**3)
    return place.view(n, n, n)


def distances(place: torch.Tensor, step: tuple[int, int, int]) -> torch.Tensor:
    """|difference in position| of all pairs of tokens `step` apart."""
    here = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(step, place.shape))
    there = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(step, place.shape))
    return (place[here] - place[there]).abs().flatten()


def curve(scan: str, steps: list[tuple[int, int, int]], n: int, layers: int) -> list[float]:
    """Average over pairs of the least distance so far, after 1, 2, ... layers."""
    out, best = [], None
    for layer in range(layers):
        place = positions(scan, layer, n)
        d = torch.cat([distances(place, step) for step in steps])
        best = d if best is None else torch.minimum(best, d)
        out.append(round(best.double().mean().item(), 2))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=32, help="side of the grid (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, help="result file")
    options = parser.parse_args()
    result = {
        "question": "average least sequence distance of adjacent tokens over the scans of k = 1..4 layers (SUP Fig. 1)",
        "grid": [options.n] * 3,
        "axis_neighbours": {scan: curve(scan, AXIS, options.n, 4) for scan in SCANS},
        "pairs_in_2x2x2_cubes": {scan: curve(scan, CUBE, options.n, 4) for scan in SCANS},
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if options.output == RESULT:
        plot(result)


def plot(result: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(4.6, 3.4))
    styles = {"rms": "o-", "zigzag": "x--", "hilbert": "^-", "raster": "s-"}
    for scan, values in result["axis_neighbours"].items():
        axis.semilogy(range(1, 5), values, styles[scan], label=scan.upper() if scan == "rms" else scan.capitalize())
    axis.set_xticks(range(1, 5))
    axis.set_xlabel("layers k")
    axis.set_ylabel("average least distance, axis neighbours")
    axis.set_title(f"Adjacency at {result['grid'][0]}$^3$ tokens", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


if __name__ == "__main__":
    main()
