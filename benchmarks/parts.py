"""What does each part of LinGen cost? The rows of the paper's Table 2, on a CPU, against the default.

    python benchmarks/parts.py --rounds 15

Every round times every variant once, in random order; a variant's cost is the median over rounds of its time divided by
the default's time in the same round. Times are CPU seconds of one thread, the measure least affected by a shared
machine. Two scans differ by a few copies, which is less than the noise of a whole step, so scans are also timed alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from machine import describe
from scaling import ALLOCATOR

from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.scans import SCANS, from_sequence, scan_orders, to_sequence

RESULT = Path(__file__).parent / "results" / "parts_cpu.json"
VARIANTS = {
    "default": {},
    "no TESA": {"tesa": False},
    "no RMS": {"scan": "raster"},
    "Zigzag": {"scan": "zigzag"},
    "Hilbert": {"scan": "hilbert"},
    "Mamba-1": {"ma_branch": "mamba1"},
    "no MA-branch": {"ma_branch": "none"},
    "no review tokens": {"review_tokens": False},
    "DiT (self-attention)": {"mixer": "attention"},
}
PAPER = {  # SUP Table 2: seconds for a 512p 17 s video on one H100
    "default": 102,
    "no TESA": 94,
    "no RMS": 99,
    "Zigzag": 144,
    "Mamba-1": 127,
    "no MA-branch": 65,
    "no review tokens": 98,
}


def scan_round_trip(scan: str, x: torch.Tensor, review: torch.Tensor) -> None:
    """The work a scan adds to four layers: into sequence order after the review and back into a sum, with gradients."""
    shape = tuple(x.shape[1:4])
    for layer, order in enumerate(scan_orders(scan, shape, (1, 1, review.shape[1]), x.device)):
        index_N, inverse_N, _ = order or (None, None, None)
        leaf = x.detach().requires_grad_()
        sequence = torch.cat([review, to_sequence(leaf, scan, layer, index_N), review], dim=1)
        tokens = sequence[:, review.shape[1] : -review.shape[1]]
        (from_sequence(tokens, shape, scan, layer, inverse_N) + leaf).sum().backward()


def compare(runs: dict, rounds: int, label: str) -> dict[str, list[float]]:
    """CPU seconds of every run in every round, in random order, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(-1, rounds):
        for name in random.sample(list(runs), len(runs)):
            start = time.process_time()
            runs[name]()
            if round_ >= 0:
                seconds[name].append(time.process_time() - start)
        print(f"{label}: round {round_ + 1} of {rounds}", flush=True)
    return seconds


def relative(seconds: dict[str, list[float]], base: str) -> dict[str, float]:
    """Median over rounds of each run's time divided by the base's in the same round."""
    return {n: round(statistics.median(a / b for a, b in zip(v, seconds[base])), 4) for n, v in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="x 24 x 24 tokens")
    parser.add_argument("--output", type=Path, default=RESULT, help="result file")
    options = parser.parse_args()
    if not ALLOCATOR.items() <= os.environ.items():  # read by the C library at start only
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    torch.set_num_threads(1)
    machine = describe()

    base = DenoiserConfig(width=256, depth=4, heads=4, text_dims=(128,), position_sizes=(16, 24, 24))
    models = {name: Denoiser(dataclasses.replace(base, **changes)) for name, changes in VARIANTS.items()}
    x, t = torch.randn(1, 16, options.frames, 48, 48), torch.rand(1)
    text = [(torch.randn(1, 16, 128), torch.ones(1, 16, dtype=torch.bool))]

    def forward(model):
        with torch.no_grad():
            model(x, t, text)

    def step(model):
        model(x, t, text).square().mean().backward()
        model.zero_grad()

    result = {
        "question": "cost of each part against the default, as in the paper's Table 2",
        "machine": machine,
        "allocator": ALLOCATOR,
        "settings": f"float32, batch 1, 1 thread, {options.frames * 24 * 24} tokens, {options.rounds} rounds",
        "config": base.to_dict(),
        "paper_table_2_h100_seconds": PAPER,
    }
    for mode, run in {"forward": forward, "training step": step}.items():
        seconds = compare({name: partial(run, model) for name, model in models.items()}, options.rounds, mode)
        ratio = relative(seconds, "default")
        result[mode] = {
            "cpu_seconds": {n: round(statistics.median(v), 4) for n, v in seconds.items()},
            "relative_to_default": ratio,
            "cost_of_rms": round(1 - ratio["no RMS"], 4),
            "cost_of_review_tokens": round(1 - ratio["no review tokens"], 4),
            "zigzag_over_rms": round(ratio["Zigzag"] - 1, 4),
        }
    tokens, review = torch.randn(1, options.frames, 24, 24, base.width), torch.randn(1, 72, base.width)
    scans = {scan: partial(scan_round_trip, scan, tokens, review) for scan in SCANS}
    seconds = compare(scans, 4 * options.rounds, "scan alone")
    result["scan alone, four layers, forward and backward"] = {
        "cpu_seconds": {n: round(statistics.median(v), 4) for n, v in seconds.items()},
        "relative_to_rms": relative(seconds, "rms"),
    }
    result["load_average_at_end"] = describe()["load_average"]
    print(json.dumps(result, indent=1))
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
