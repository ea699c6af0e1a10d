"""How long does a video take on one GPU? lingen_4b and dit_4b in bfloat16 with random weights, at the paper's shapes.

    python benchmarks/gpu_latency.py                      # everything: latency, the rows of Table 2, memory, TFLOP/s
    python benchmarks/gpu_latency.py --stages t2v_512p_17s --models lingen_4b --no-variants

Needs only torch and triton (from the repository's root: PYTHONPATH=. python benchmarks/gpu_latency.py). A step is one
evaluation with classifier-free guidance (both halves in one batch of two) and one without; a video is 50 steps. The
result is written after every measurement, so an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from machine import describe
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.flops import TEXT_TOKENS, forward_flops, parameter_count
from lingen.model.presets import preset
from lingen.model.stages import STAGES
from lingen.ssd import int32_headroom, resolve_backend, self_test
from lingen.ssd.backends import BACKENDS, unavailable

RESULT = Path(__file__).parent / "results" / "gpu_latency.json"
STEPS = 50
VARIANTS = {  # Table 2 at 512p 17 s, with the paper's seconds on one H100
    "default": ({}, 102),
    "no TESA": ({"tesa": False}, 94),
    "no RMS": ({"scan": "raster"}, 99),
    "Zigzag": ({"scan": "zigzag"}, 144),
    "Hilbert": ({"scan": "hilbert"}, None),
    "no MA-branch": ({"ma_branch": "none"}, 65),
    "no review tokens": ({"review_tokens": False}, 98),
    "Mamba-1": ({"ma_branch": "mamba1"}, 127),
}
PAPER_SECONDS = {  # read off the project page's plots: 50 steps on one H100
    "lingen_4b": {"t2v_256p_17s": 26, "t2v_512p_17s": 102, "t2v_512p_34s": 213, "t2v_512p_68s": 427},
    "dit_4b": {"t2v_256p_17s": 29, "t2v_512p_17s": 210, "t2v_512p_34s": 830, "t2v_512p_68s": 4930},
}
# Kernels for self-attention; masked cross-attention falls back to the memory-efficient one.
EFFICIENT = SDPBackend.EFFICIENT_ATTENTION
SDPA = {
    "auto": None,
    "cudnn": [SDPBackend.CUDNN_ATTENTION, EFFICIENT],
    "flash": [SDPBackend.FLASH_ATTENTION, EFFICIENT],
    "efficient": [EFFICIENT],
}


def build(config: DenoiserConfig, device: torch.device, compiled: bool) -> Denoiser:
    """A bfloat16 model with random weights, compiled layer by layer if asked."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    with device:
        model = Denoiser(config).to(torch.bfloat16).requires_grad_(False).eval()
    if compiled:
        # Layers differ in scan axis and window shift: four programs, not one per layer.
        torch._dynamo.config.cache_size_limit = 64
        for layer in model.layers:
            layer.compile()
    return model


def make_inputs(config: DenoiserConfig, latent, device, guided: bool) -> tuple:
    """Latents, times and text; with guidance, a batch of two whose second row has no text."""
    batch = 2 if guided else 1
    mask = torch.ones(batch, TEXT_TOKENS, dtype=torch.bool, device=device)
    mask[1:] = False
    random = partial(torch.randn, device=device, dtype=torch.bfloat16)
    text = [(random(batch, TEXT_TOKENS, dim), mask) for dim in config.text_dims]
    return random(batch, config.latent_channels, *latent), torch.full((batch,), 0.5, device=device), text


def time_step(model: Denoiser, inputs: tuple, device: torch.device) -> float:
    """Seconds for one evaluation."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    with torch.inference_mode():
        model(*inputs)
    synchronize()
    return time.perf_counter() - start


def measure(config: DenoiserConfig, latent, device, options, guided: bool, sdpa: str = "auto") -> dict:
    """Median seconds per step, seconds per 50-step video, achieved TFLOP/s and peak memory."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with sdpa_kernel(SDPA[sdpa], set_priority=True) if SDPA[sdpa] else contextlib.nullcontext():
        model, inputs = build(config, device, options.compile), make_inputs(config, latent, device, guided)
        first = time_step(model, inputs, device)  # compiles
        seconds = [time_step(model, inputs, device)]
        while len(seconds) < options.steps and sum(seconds) < options.seconds:
            seconds.append(time_step(model, inputs, device))
    step = statistics.median(seconds)
    flops = sum(forward_flops(config, latent).values()) * (2 if guided else 1)
    return {
        "step_seconds": round(step, 4),
        "steps_timed": len(seconds),
        "spread": round((max(seconds) - min(seconds)) / step, 3),
        "first_step_seconds": round(first, 1),
        "video_seconds_50_steps": round(step * STEPS, 2),
        "tflops_per_second": round(flops / step / 1e12, 2),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
    }


def check_scan(config: DenoiserConfig, tokens: int, device: torch.device) -> dict:
    """Run the scan's self-test at this length; report how close batch 2 comes to the 32-bit offset limit."""
    heads = int(config.ssm_expand * config.width) // config.ssm_head_dim
    scan = {"heads": heads, "head_dim": config.ssm_head_dim, "state": config.mamba2_state}
    tested = self_test(length=tokens, backend=config.ssd_backend, dtype=torch.bfloat16, device=device, **scan)
    headroom = int32_headroom(config.ssd_backend, batch=2, length=tokens, **scan)
    return {"result": str(tested), "int32_headroom_at_batch_2": round(headroom, 3)}


class Report:
    """The result file, rewritten after every row."""

    def __init__(self, path: Path, header: dict):
        self.path, self.content = path, header

    def add(self, section: str, row: dict, run) -> None:
        """Run one measurement. A failure (out of memory, an unsupported kernel) becomes a row of its own."""
        try:
            row = {**row, **run()}
        except (RuntimeError, NotImplementedError) as error:
            row = {**row, "error": " ".join(str(error).split())[:300]}
        self.content.setdefault(section, []).append(row)
        print(f"{section}: {json.dumps(row)}", flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["lingen_4b", "dit_4b"], help="presets (default %(default)s)")
    parser.add_argument(
        "--stages", nargs="*", default=[s.name for s in STAGES if s.frames > 1], help="default: those of videos"
    )
    parser.add_argument("--backends", nargs="*", help="scan backends (default: all that can be imported)")
    parser.add_argument("--no-variants", dest="variants", action="store_false", help="leave out the rows of Table 2")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="run eagerly")
    parser.add_argument("--no-self-test", dest="self_test", action="store_false", help="skip the scan's self-tests")
    parser.add_argument("--steps", type=int, default=10, help="at most this many timed steps (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="at most this many timed seconds (default %(default)s)"
    )
    parser.add_argument("--device", default="cuda", help="torch device (default %(default)s)")
    parser.add_argument("--latent", type=int, nargs=3, help="one latent shape T H W instead of the stages'")
    parser.add_argument("--output", type=Path, default=RESULT, help="result file")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("error: --device: no CUDA device here; run this on a machine with a GPU")
    torch.set_float32_matmul_precision("high")
    shapes = {s.name: s.latent_shape for s in STAGES if s.name in options.stages}
    if options.latent:
        shapes = {"x".join(map(str, options.latent)): tuple(options.latent)}
    backends = options.backends or [b for b in BACKENDS if b != "reference" and unavailable(b) is None]
    report = Report(
        options.output,
        {
            "question": "seconds per step and per 50-step video on one GPU, bfloat16, random weights",
            "machine": describe(),
            "settings": {"compiled": options.compile, "text_tokens": TEXT_TOKENS, "scan_backends": backends},
            "auto_scan_backend": resolve_backend("auto", device),
            "paper_seconds_one_h100": PAPER_SECONDS,
            "parameters": {name: parameter_count(preset(name)) for name in options.models},
        },
    )
    for stage, latent in shapes.items():
        for name in options.models:
            base = preset(name)
            tokens = math.prod(base.token_grid(latent))
            row = {"stage": stage, "tokens": tokens, "model": name}
            mate = base.mixer == "mate"
            for backend in backends if mate else ["auto"]:
                config = dataclasses.replace(base, ssd_backend=backend)
                if mate and options.self_test:
                    report.add("self_tests", {**row, "scan": backend}, partial(check_scan, config, tokens, device))
                # Self-attention is measured with every available SDPA kernel, so that its best one is compared.
                for sdpa in SDPA if not mate and device.type == "cuda" else ["auto"]:
                    for guided in (True, False):
                        labels = {"scan": backend if mate else None, "sdpa": sdpa, "guidance": guided}
                        run = partial(measure, config, latent, device, options, guided, sdpa)
                        report.add("latency", {**row, **labels}, run)
    if options.variants:
        latent = options.latent or next(s.latent_shape for s in STAGES if s.name == "t2v_512p_17s")
        for variant, (changes, paper) in VARIANTS.items():
            config = dataclasses.replace(preset(options.models[0]), **changes)
            run = partial(measure, config, latent, device, options, True)
            report.add("variants", {"variant": variant, "paper_seconds_one_h100": paper, "guidance": True}, run)


if __name__ == "__main__":
    main()
