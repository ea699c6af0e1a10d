"""What does each part of LinGen cost? The rows of the paper's Table 2, on a CPU, against the default.

    python benchmarks/parts.py --rounds 15

Every round times every variant once, in random order; a variant's cost is the median over rounds of its time over the
default's time in the same round. Times are CPU seconds of one thread, which a shared machine disturbs least.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import time
from pathlib import Path

import torch
from machine import describe

from lingen.denoiser import Denoiser, DenoiserConfig

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--frames", type=int, default=16, help="x 24 x 24 tokens")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
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

    modes = {"forward": forward, "training step": step}
    seconds = {mode: {name: [] for name in models} for mode in modes}
    for round_ in range(-1, options.rounds):  # round -1 warms up
        for mode, run in modes.items():
            for name in random.sample(list(models), len(models)):
                start = time.process_time()
                run(models[name])
                if round_ >= 0:
                    seconds[mode][name].append(time.process_time() - start)
        print(f"round {round_ + 1} of {options.rounds}", flush=True)

    result = {
        "question": "cost of each part against the default, as in the paper's Table 2",
        "machine": machine,
        "load_average_at_end": describe()["load_average"],
        "settings": f"float32, batch 1, 1 thread, {options.frames * 24 * 24} tokens, {options.rounds} rounds",
        "config": base.to_dict(),
        "paper_table_2_h100_seconds": PAPER,
    }
    for mode, times in seconds.items():
        default = times["default"]
        relative = {n: statistics.median(a / b for a, b in zip(v, default)) for n, v in times.items()}
        result[mode] = {
            "cpu_seconds": {n: round(statistics.median(v), 4) for n, v in times.items()},
            "relative_to_default": {n: round(v, 4) for n, v in relative.items()},
            "cost_of_rms": round(1 - relative["no RMS"], 4),
            "cost_of_review_tokens": round(1 - relative["no review tokens"], 4),
            "cost_of_tesa": round(1 - relative["no TESA"], 4),
            "cost_of_ma_branch": round(1 - relative["no MA-branch"], 4),
            "zigzag_over_rms": round(relative["Zigzag"] - 1, 4),
        }
        print(mode, json.dumps(result[mode], indent=1))
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
