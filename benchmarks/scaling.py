"""How do LinGen and DiT scale with the number of tokens? CPU, equal width, depth and feed-forward network.

    python benchmarks/scaling.py            # measures 1k to 64k tokens; about half an hour
    python benchmarks/scaling.py --plot     # draws docs/scaling.svg from the committed result

Each point is one forward pass in a fresh process: CPU seconds of one thread (robust on a shared machine, unlike wall
time), and the growth of the process's peak memory during the pass. Models alternate, so drift affects both equally.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "scaling_cpu.json"
PLOT = Path(__file__).parents[1] / "docs" / "scaling.svg"
FRAMES = (1, 2, 4, 8, 16, 32, 64)  # x 32 x 32 tokens: 1,024 to 65,536
MODELS = ("lingen", "dit")
# Keep freed memory: by default glibc maps tensors above 32 MiB anew each time, and zeroing their pages in the kernel
# (a third of LinGen's time at 64k tokens) would be measured along with the model.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**11)}
REPEATS = {"forward": {1: 5, 2: 5, 4: 5, 8: 3, 16: 3, 32: 2, 64: 2}, "train": {1: 3, 2: 3, 4: 3, 8: 2, 16: 2}}


def config(model: str):
    from lingen.model.denoiser import DenoiserConfig

    mixer = {"lingen": "mate", "dit": "attention"}[model]
    return DenoiserConfig(width=256, depth=4, heads=4, text_dims=(128,), position_sizes=(64, 32, 32), mixer=mixer)


def measure(model: str, frames: int, mode: str) -> dict:
    """Measure one pass. Runs in its own process."""
    import torch

    from lingen.model.denoiser import Denoiser

    torch.set_num_threads(1)
    torch.manual_seed(0)
    denoiser = Denoiser(config(model))
    latents, t = torch.randn(1, 16, frames, 64, 64), torch.rand(1)
    text = [(torch.randn(1, 16, 128), torch.ones(1, 16, dtype=torch.bool))]

    def run(x):
        with torch.set_grad_enabled(mode == "train"):
            y = denoiser(x, t, text)
            if mode == "train":
                y.square().mean().backward()

    run(latents[:, :, :1, :8, :8])  # loads kernels, at a size that does not raise the peak
    before = peak_kib()
    cpu, wall = time.process_time(), time.perf_counter()
    run(latents)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_seconds": cpu, "wall_seconds": wall, "peak_mib": (peak_kib() - before) / 1024}


def peak_kib() -> int:
    """Peak resident memory of this process (getrusage would include that of the process it was forked from)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def measure_in_process(model: str, frames: int, mode: str) -> dict:
    command = [sys.executable, __file__, "--one", model, str(frames), mode]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def slope(points: list[tuple[float, float]]) -> float:
    """Slope of the least-squares line in log-log space."""
    xs, ys = zip(*((math.log(n), math.log(v)) for n, v in points))
    mx, my = statistics.mean(xs), statistics.mean(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / sum((x - mx) ** 2 for x in xs)


def crossover(rows: list[dict]) -> float | None:
    """Tokens from which LinGen is faster, interpolated in log-log space; None if it always or never is."""
    gaps = [(math.log(r["tokens"]), math.log(r["dit"]["cpu_seconds"] / r["lingen"]["cpu_seconds"])) for r in rows]
    for (x0, g0), (x1, g1) in pairwise(gaps):
        if g0 < 0 <= g1:
            return math.exp(x0 + (x1 - x0) * -g0 / (g1 - g0))
    return None


def summarise(samples: dict, mode: str) -> dict:
    rows = []
    for frames in REPEATS[mode]:
        row = {"tokens": frames * 32 * 32}
        for model in MODELS:
            runs = samples[mode, frames, model]
            row[model] = {key: round(statistics.median(r[key] for r in runs), 4) for key in runs[0]}
            row[model]["runs"] = len(runs)
        rows.append(row)
    from_4k = [r for r in rows if r["tokens"] >= 4096]
    return {
        "rows": rows,
        "slope_cpu_seconds_from_4k": {
            m: round(slope([(r["tokens"], r[m]["cpu_seconds"]) for r in from_4k]), 3) for m in MODELS
        },
        "slope_peak_memory_from_4k": {
            m: round(slope([(r["tokens"], r[m]["peak_mib"]) for r in from_4k]), 3) for m in MODELS
        },
        "crossover_tokens": crossover(rows) and round(crossover(rows)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", action="store_true", help="only draw the stored result")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "FRAMES", "MODE"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULT, help="result file")
    options = parser.parse_args()
    if options.one:
        model, frames, mode = options.one
        print(json.dumps(measure(model, int(frames), mode)))
        return
    if not options.plot:
        from machine import describe

        started = describe()
        samples: dict = {}
        for mode, repeats in REPEATS.items():
            for repeat in range(max(repeats.values())):
                for frames in (f for f, n in repeats.items() if repeat < n):
                    for model in MODELS:
                        run = measure_in_process(model, frames, mode)
                        samples.setdefault((mode, frames, model), []).append(run)
                        print(f"{mode} {frames * 1024:>6} {model:<6} {run['cpu_seconds']:.2f} s", flush=True)
        result = {
            "question": "time and memory against tokens, LinGen and DiT (SDPA) at equal width, depth and FFN",
            "machine": started,
            "load_average_at_end": describe()["load_average"],
            "allocator": ALLOCATOR,
            "settings": "float32, batch 1, 1 thread, torch scan backend, medians; memory: growth over the loaded model",
            "config": {model: config(model).to_dict() for model in MODELS},
            **{mode: summarise(samples, mode) for mode in REPEATS},
        }
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    plot(json.loads(options.output.read_text()))


def plot(result: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    rows = result["forward"]["rows"]
    for axis, key, label in zip(axes, ("cpu_seconds", "peak_mib"), ("CPU seconds, one thread", "peak memory, MiB")):
        for model, name, style in (("lingen", "LinGen", "o-"), ("dit", "DiT (SDPA)", "s--")):
            points = [(r["tokens"], r[model][key]) for r in rows]
            s = result["forward"]["slope_cpu_seconds_from_4k" if key == "cpu_seconds" else "slope_peak_memory_from_4k"]
            axis.loglog(*zip(*points), style, label=f"{name}, slope {s[model]:.2f} from 4k", markersize=4)
        axis.set_xlabel("tokens")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    figure.suptitle(f"One forward pass, d = 256, 4 layers, {result['machine']['cpu']}, float32", fontsize=10)
    figure.tight_layout()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


if __name__ == "__main__":
    main()
