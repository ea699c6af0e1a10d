"""What do Ray Train and MLflow cost? jobs/train.py against the bare loop under torchrun, on the same work.

    python benchmarks/ray_overhead.py --rounds 5

Both train the same stage on the same random latents with the same number of workers (--workers: one or several numbers,
one after the other). Rounds are interleaved in random order; the cost is the median over rounds of the ratio of their
steady steps: the median wall time from one report to the next, so reports and tracking count. The time until the first
report is start-up and is listed separately. If every core has a worker, Ray's own processes compete with them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

from lingen.data.synthetic import write_random_encoding
from lingen.io.manifest import to_plain
from pipelines.recipes import find_stage

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "ray_overhead.json"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
STAGE, BUCKET = "demo_t2v_64p_1s", "video_64x64_16f"
SKIP = 2  # skip the first reports: the first steps allocate memory


def fit_settings(options) -> dict:
    """Settings of the stage, the same on both sides."""
    changes = {"steps": options.steps, "log_every": options.log_every, "image_ratio": "0", "batch_size": 8}
    changes |= {"checkpoint_every": options.steps, "sample_every": 0, "warmup": 10}
    changes |= {"held_out": 0, "validate_every": 0}
    return changes


def bare(shards: Path, output: Path, workers: int, options) -> list[str]:
    """Command line of lingen.train as started by torchrun: only torch and lingen/."""
    fit = to_plain(find_stage(STAGE)[1].fit) | fit_settings(options)
    settings = [f"{name}={value}" for name, value in fit.items() if not isinstance(value, dict)]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={workers}", f"--master-port={port}"]
    return [*launcher, "-m", "lingen.train", "--shards", str(shards), "--output", str(output), *settings]


def under_ray(shards: Path, output: Path, workers: int, options) -> list[str]:
    """Command line of jobs/train.py, with its tracking store next to the output."""
    command = ["jobs/train.py", "--stage", STAGE, "--shards", str(shards), "--output", str(output)]
    command += ["--workers.count", str(workers), "--workers.threads", "1", "--sampler.steps", "1"]
    for name, value in fit_settings(options).items():
        command += [f"--fit.{name.replace('_', '-')}", str(value)]
    return command


KINDS = {"torchrun": (bare, "metrics.jsonl"), "ray": (under_ray, "tracking/metrics.jsonl")}


def run(kind: str, shards: Path, folder: Path, workers: int, options) -> dict:
    """Start-up and steady step of one run, in seconds."""
    make, metrics = KINDS[kind]
    output = folder / "out"
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    began = time.time()
    command = [sys.executable, *make(shards, output, workers, options)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{kind} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    reports = [json.loads(line) for line in (output / metrics).read_text().splitlines()]
    times = [report["time_ms"] / 1000 for report in reports]
    steps = [(b - a) / options.log_every for a, b in itertools.pairwise(times)][SKIP:]
    return {"steady_step": statistics.median(steps), "start_up": times[0] - began, "whole": time.time() - began}


def compare(shards: Path, workers: int, options) -> dict:
    """Interleaved rounds of both sides with `workers` workers."""
    runs: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for round_ in range(options.rounds):
        for kind in random.sample(list(KINDS), len(KINDS)):
            with tempfile.TemporaryDirectory(dir=shards.parent) as place:
                runs[kind].append(run(kind, shards, Path(place), workers, options))
            step_ms = runs[kind][-1]["steady_step"] * 1e3
            print(f"{workers} workers, round {round_ + 1}: {kind:9}{step_ms:9.2f} ms a step", flush=True)
    ratios = [ray["steady_step"] / bare["steady_step"] for ray, bare in zip(runs["ray"], runs["torchrun"])]
    return {
        "workers": workers,
        "seconds_median": {k: {n: round(statistics.median(r[n] for r in v), 4) for n in v[0]} for k, v in runs.items()},
        "overhead_percent": round(100 * (statistics.median(ratios) - 1), 2),
        "overhead_percent_of_rounds": [round(100 * (ratio - 1), 2) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument("--steps", type=int, default=120, help="steps per run (default %(default)s)")
    parser.add_argument("--log-every", type=int, default=10, help="steps between reports (default %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="workers (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, help="result file")
    options = parser.parse_args()
    if options.steps // options.log_every < SKIP + 3:
        sys.exit(f"error: --steps: use at least {options.log_every * (SKIP + 3)}, to get enough reports")
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        shards = write_random_encoding(Path(folder, "latents"), {BUCKET: 64})
        found = [compare(shards, workers, options) for workers in options.workers]
    result = {
        "question": "cost of Ray Train and MLflow over the bare loop under torchrun, on the same work",
        "machine": machine | {"load_average_at_end": describe()["load_average"]},
        "settings": {"stage": STAGE, "rounds": options.rounds, **fit_settings(options)},
        "by_workers": found,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for row in found:
        starts = {kind: times["start_up"] for kind, times in row["seconds_median"].items()}
        cost = f"{row['overhead_percent']:+.2f} % of a step"
        start_up = f"{starts['ray']:.1f} s against {starts['torchrun']:.1f} s"
        print(f"{row['workers']} workers: Ray Train and MLflow cost {cost}; start-up {start_up}")


if __name__ == "__main__":
    main()
