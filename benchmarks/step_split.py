"""Where does a training step go? The real loop (lingen.train.stage.fit), every part of a step timed; and its MFU.

    python benchmarks/step_split.py            # on a CPU: the demo's video stage in miniature
    python benchmarks/step_split.py --gpu      # on a GPU: lingen_4b-shaped layers, 512p 17 s, as many as fit

Needs only torch, numpy, safetensors, pyarrow and open_clip (from the repository's root: PYTHONPATH=. python ...).
The parts follow each other without a gap, so they add up to the whole. `prepare` is noise, times, and the copy to the
device; `optimizer` includes clipping, the guard and the averaged weights; checkpoints are written in the background, so
`checkpoint` is only the time training waits for them. MFU counts the paper's operations (lingen.flops), times three for
training (recomputed activations are not counted), over the GPU's dense bfloat16 peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from machine import describe

from lingen.data.buckets import Bucket
from lingen.data.shard_index import ShardIndex
from lingen.data.synthetic import write_random_latents
from lingen.model.denoiser import DenoiserConfig
from lingen.model.flops import parameter_count, peak_flops, training_flops
from lingen.model.presets import PRESETS
from lingen.model.stages import STAGES
from lingen.train.config import FitConfig
from lingen.train.hand_over import grown
from lingen.train.observers.observer import Observer
from lingen.train.stage import Hooks, fit

RESULTS = Path(__file__).parent / "results"
MODEL = ("forward", "backward", "optimizer")
CHECKPOINT_EVERY = 50  # as in the demo; the paper's stages save every 500 steps


class Stopwatch(Observer):
    """Seconds of each part of each step between the warm-up and the last. Synchronizes the GPU at every lap.

    The last step, which waits for its checkpoint and draws samples, is excluded: it occurs once in weeks of training.
    """

    def __init__(self, warmup: int, steps: int):
        self._warmup, self._last_step, self._step = warmup, steps - 1, 0
        self._parts: Counter[str] = Counter()
        self.steps: list[dict[str, float]] = []
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._parts[part] += now - self._last
        self._last = now
        if part == "checkpoint":  # the last part of a step
            self._step += 1
            if self._warmup < self._step <= self._last_step:
                self.steps.append(dict(self._parts))
            self._parts.clear()

    def split(self) -> dict[str, float]:
        """Percent of the total time, by part."""
        total = sum(sum(step.values()) for step in self.steps)
        parts = {part: sum(step.get(part, 0.0) for step in self.steps) for part in self.steps[0]}
        return {part: round(100 * seconds / total, 3) for part, seconds in parts.items()}


def measure(config: FitConfig, architecture: DenoiserConfig, bucket: str, samples: int, warmup: int) -> dict:
    """Train on random latents of one bucket; return the split in percent and the median step."""
    with tempfile.TemporaryDirectory() as folder:
        encoders = [(f"random-{i}", str(i), dim) for i, dim in enumerate(architecture.text_dims)]
        shards = ShardIndex.open(write_random_latents(Path(folder, "latents"), {bucket: samples}, encoders=encoders))
        watch = Stopwatch(warmup, config.steps)
        reports = open(Path(folder, "metrics.jsonl"), "a")  # noqa: SIM115
        hooks = Hooks(log=lambda step, metrics: print(json.dumps(metrics), file=reports, flush=True))
        fit(config, grown(architecture, shards), shards, Path(folder, "run"), hooks=hooks, observers=[watch])
    split = watch.split()
    model = sum(split[part] for part in MODEL)
    return {
        "percent_of_step": split,
        "percent_not_model": round(100 - model, 3),
        "step_seconds": statistics.median(sum(step.values()) for step in watch.steps),
        "steps": len(watch.steps),
    }


def on_cpu(options) -> dict:
    """The demo's model on videos of the demo's size; reports and saves at least as often as real runs."""
    config = FitConfig(
        steps=options.warmup + options.steps + 1,
        batch_size=8,
        image_ratio="0",
        held_out=0.0,
        checkpoint_every=CHECKPOINT_EVERY,
        log_every=10,
    )
    bucket = "video_48x80_32f"
    result = measure(config, PRESETS["tiny"], bucket, samples=32, warmup=options.warmup)
    return {"model": "tiny", "bucket": bucket, "fit": dataclasses.asdict(config), **result}


def on_gpu(options) -> dict:
    """As many of lingen_4b's layers as fit: batch 1, bfloat16, compiled, activations recomputed."""
    stage = next(s for s in STAGES if s.name == options.stage)
    bucket = Bucket("video", stage.height, stage.width, stage.frames)
    peak = peak_flops(torch.cuda.get_device_name())
    config = FitConfig(
        steps=options.warmup + options.steps + 1,
        batch_size=options.batch,
        image_ratio="0",
        held_out=0.0,
        precision="bfloat16",
        compile=options.compile,
        activation_checkpointing=True,
        checkpoint_every=10**9,  # the checkpoint stall is measured in the CPU run
        log_every=10,
    )
    base = PRESETS["lingen_4b"]
    for depth in range(options.depth, 0, -4):
        architecture = dataclasses.replace(base, depth=depth)
        try:
            torch.cuda.reset_peak_memory_stats()
            result = measure(config, architecture, bucket.name, options.batch, options.warmup)
            break
        except torch.OutOfMemoryError:
            print(f"{depth} layers do not fit", flush=True)
        torch.cuda.empty_cache()
    else:
        sys.exit("error: not even one group of layers fits on this GPU")
    achieved = options.batch * training_flops(architecture, stage.latent_shape) / result["step_seconds"]
    return {
        "model": f"lingen_4b with {depth} of {base.depth} layers",
        "parameters": parameter_count(architecture),
        "stage": stage.name,
        "fit": dataclasses.asdict(config),
        **result,
        "tflops_per_second": round(achieved / 1e12, 2),
        "peak_tflops_bf16": peak and peak / 1e12,
        "mfu_percent": round(100 * achieved / peak, 2) if peak else None,
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="MFU of large layers instead of the split at toy size")
    parser.add_argument("--stage", default="t2v_512p_17s", choices=[s.name for s in STAGES if s.frames > 1])
    parser.add_argument("--depth", type=int, default=32, help="layers to try first on a GPU (default %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="samples per step on a GPU (default %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="timed steps (default %(default)s)")
    parser.add_argument("--warmup", type=int, default=5, help="untimed steps before them (default %(default)s)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="run eagerly")
    parser.add_argument("--output", type=Path, help="result file")
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        sys.exit("error: --gpu: no CUDA device here; run this on a machine with a GPU")
    if not options.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    torch.set_float32_matmul_precision("high")
    machine = describe()
    backend = "nccl" if options.gpu else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    result = {"question": "percent of a training step by part", "machine": machine}
    result |= on_gpu(options) if options.gpu else on_cpu(options)
    dist.destroy_process_group()
    result["load_average_at_end"] = describe()["load_average"]
    output = options.output or RESULTS / f"step_split_{'gpu' if options.gpu else 'cpu'}.json"
    output.write_text(json.dumps(result, indent=1) + "\n")
    for part, percent in result["percent_of_step"].items():
        print(f"{part:12}{percent:8.2f} %")
    print(f"{'not model':12}{result['percent_not_model']:8.2f} %   step {result['step_seconds']:.4f} s")
    if options.gpu:
        print(f"MFU {result['mfu_percent']} % ({result['tflops_per_second']} TFLOP/s, {result['model']})")


if __name__ == "__main__":
    main()
