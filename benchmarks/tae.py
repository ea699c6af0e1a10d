"""What does the TAE cost per second of video, piece by piece, and does it grow with the length?

    python benchmarks/tae.py                      # tae_tiny on the CPU: 2 to 68 s at 256p, 68 s of 512p; a few minutes
    python benchmarks/tae.py --device cuda --presets tae_tiny tae_paper --output benchmarks/results/tae_cuda.json

Each point encodes and decodes one video in a fresh process, from a generator of frames, as jobs/encode.py does, and
discards the output: no more than a piece of the video is ever in memory. Peak memory is what the process (or the GPU)
uses beyond the loaded model. Weights are random: the cost does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "tae_cpu.json"
FPS = 16
SIZES = {"64p": (48, 80), "256p": (192, 352), "512p": (384, 704)}
POINTS = [("256p", 2), ("256p", 8), ("256p", 34), ("256p", 68), ("512p", 2), ("512p", 68)]
PAPER_POINTS = [("256p", 0.5), ("256p", 1)]  # on a CPU: a minute of it would take hours
# Return freed memory at once, so that the peak is that of the tensors and not of the allocator.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}


def measure(preset: str, size: str, seconds: float, device: str, threads: int) -> dict:
    """Encode and decode one video. Runs in its own process."""
    import torch

    from lingen.tae.config import TAE_PRESETS
    from lingen.tae.tae import TAE

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tae = TAE(TAE_PRESETS[preset]).eval().requires_grad_(False).to(device)
    height, width = SIZES[size]
    frames = round(seconds * FPS)

    def pieces(count, height, width):
        done = 0
        while done < count:
            length = min(16, count - done)
            yield torch.rand(1, 3, length, height, width, device=device) * 2 - 1
            done += length

    def encode(count, height, width):
        return torch.cat(list(tae.encode_stream(pieces(count, height, width))), dim=2)

    def decode(latent, count):
        return sum(piece.shape[2] for piece in tae.decode_stream(latent, count))

    decode(encode(16, 16, 16), 16)  # loads kernels
    measured = {"preset": preset, "size": size, "seconds": seconds, "frames": frames}
    latent = None
    for what in ("encode", "decode"):
        before = start_of_peak(device)
        cpu, wall = time.process_time(), time.perf_counter()
        if what == "encode":
            latent = encode(frames, height, width)
        else:
            assert decode(latent, frames) == frames
        if device == "cuda":
            torch.cuda.synchronize()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        measured[what] = {
            "wall_s_per_s": wall / seconds,
            "cpu_s_per_s": cpu / seconds,
            "peak_mib": (peak(device) - before) / 2**20,
        }
    assert latent.shape[1:] == tae.latent_shape(frames, height, width)
    return measured


def start_of_peak(device: str) -> int:
    """Bytes in use now; resets the peak."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident
    return status("VmRSS")


def peak(device: str) -> int:
    """Peak bytes since `start_of_peak`."""
    import torch

    return torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    return 1024 * int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])


def measure_in_process(*point) -> dict:
    command = [sys.executable, __file__, "--one", *map(str, point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ALLOCATOR})
    if done.returncode:
        raise SystemExit(f"{point}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def growth(points: list[dict]) -> dict:
    """Ratio of longest to shortest video of one preset and size: cost per second, and peak memory.

    Videos under 8 s do not fill the state kept between pieces, so they are left out if there are longer ones.
    """
    points = [p for p in points if p["seconds"] >= 8] or points
    first, last = min(points, key=lambda p: p["seconds"]), max(points, key=lambda p: p["seconds"])
    ratios = {"from_s": first["seconds"], "to_s": last["seconds"]}
    for what in ("encode", "decode"):
        ratios[f"{what}_time_per_second"] = last[what]["cpu_s_per_s"] / first[what]["cpu_s_per_s"]
        ratios[f"{what}_peak_memory"] = last[what]["peak_mib"] / first[what]["peak_mib"]
    return {name: round(value, 2) for name, value in ratios.items()}


def rounded(value):
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tae_tiny", "tae_paper"], help="sizes of the TAE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--points", nargs="+", metavar="SIZE:SECONDS", help="such as 256p:2 (default: see the script)")
    parser.add_argument("--output", type=Path, default=RESULT, help="result file")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        preset, size, seconds, device, threads = options.one
        print(json.dumps(measure(preset, size, float(seconds), device, int(threads))))
        return
    sys.path.insert(0, str(Path(__file__).parent))
    from machine import describe

    started, found = time.time(), []
    for preset in options.presets:
        chosen = POINTS if options.device == "cuda" or preset == "tae_tiny" else PAPER_POINTS
        if options.points:
            chosen = [(p.split(":")[0], float(p.split(":")[1])) for p in options.points]
        for size, seconds in chosen:
            found.append(rounded(measure_in_process(preset, size, seconds, options.device, options.threads)))
            print(json.dumps(found[-1]), flush=True)
    sets = {}
    for point in found:
        sets.setdefault(f"{point['preset']} {point['size']}", []).append(point)
    result = {
        "machine": describe(),
        "device": options.device,
        "threads": options.threads,
        "fps": FPS,
        "minutes": round((time.time() - started) / 60, 1),
        "points": found,
        "growth": {name: growth(points) for name, points in sets.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["growth"], indent=1))


if __name__ == "__main__":
    main()
