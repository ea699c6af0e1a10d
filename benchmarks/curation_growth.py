"""Does curation scale linearly? 100, 1,000 and 10,000 clips of distinct content: time per clip, and peak memory of the
driver, the workers and their decoding processes.

    python benchmarks/curation_growth.py [--sizes 100 1000 10000]    # prints rows, writes results/curation_growth.json

The clips are generated here, from photographs bundled with installed packages: one second of 128x96 each, with its own
crop, camera move and moving object. Time per clip is that of the whole job once Ray's workers have started. Time per
further clip counts only those beyond the previous size, which leaves out one-off costs such as the report. Also
measured: deciding again with another threshold, which reads stored numbers only.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import machine

HERE = Path(__file__).parent
HEIGHT, WIDTH, FPS, FRAMES = 96, 128, 12, 12
_photos: list = []


def make_clip(task: tuple[str, int]) -> None:
    """Write one clip, a pure function of its number."""
    import av
    import cv2
    import numpy as np

    from data_prep.demo.footage import PHOTOS

    if not _photos:
        cv2.setNumThreads(1)
        _photos.extend(photo.read() for photo in PHOTOS)
    path, number = task
    rng = np.random.default_rng(number)
    scene, thing = (_photos[i] for i in rng.integers(len(_photos), size=2))
    scale = rng.uniform(1.2, 3.0) * max(HEIGHT / scene.shape[0], WIDTH / scene.shape[1])
    angle, flip, gain = rng.uniform(-25, 25), rng.integers(2), rng.uniform(0.75, 1.2, 3)
    centre, drift = rng.uniform(0.35, 0.65, 2) * scene.shape[1::-1], rng.uniform(-1.5, 1.5, 2)
    y, x = (int(rng.integers(0, n - 30)) for n in thing.shape[:2])
    patch = thing[y : y + 30, x : x + 30]
    at, speed = rng.uniform(0, (WIDTH - 30, HEIGHT - 30)), rng.uniform(2, 4, 2) * rng.choice([-1, 1], 2)
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(FPS), options={"qscale": "4"})
        stream.codec_context.qmin = stream.codec_context.qmax = 4
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(FRAMES):
            turn = cv2.getRotationMatrix2D(tuple(centre), angle, scale)
            turn[:, 2] += np.array([WIDTH, HEIGHT]) / 2 - centre + drift * t
            frame = cv2.warpAffine(scene, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT_101)
            frame = np.clip((frame[:, ::-1] if flip else frame) * gain, 0, 255).astype(np.uint8)
            left, top = (int(v) for v in np.clip(at + speed * t, 0, (WIDTH - 30, HEIGHT - 30)))
            frame[top : top + 30, left : left + 30] = patch
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def make_clips(folder: Path, numbers: range) -> Path:
    """Write the clips that do not exist yet and a manifest of all; return the manifest's path."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    tasks = [(str(folder / "clips" / f"{i:06d}.mp4"), i) for i in numbers]
    tasks = [task for task in tasks if not os.path.exists(task[0])]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for _ in pool.imap_unordered(make_clip, tasks, chunksize=50):
            pass
    manifest = folder / f"{numbers.start}-{numbers.stop}.csv"
    with open(manifest, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("uri", "caption", "license", "source"))
        writer.writerows((f"clips/{i:06d}.mp4", f"Clip number {i}.", "CC0-1.0", "made here") for i in numbers)
    return manifest


def measure_one(manifest: Path, folder: Path, workers: int) -> dict:
    """Curate, then decide again with another threshold. Runs in its own process."""
    from data_prep.curate.job import CurateConfig, curate
    from data_prep.curate.thresholds import FilterConfig
    from data_prep.measure.run import DecodeConfig
    from data_prep.ray_cluster import connect

    def run(name: str, **changes):
        return curate(CurateConfig(input=str(manifest), output=folder / name / "out", decode=decode, **changes))

    connect()
    decode = DecodeConfig(workers=workers)
    count = len(manifest.read_text().splitlines()) - 1
    runs = [run(f"run{i}") for i in range(max(1, min(5, 1000 // count)))]  # short runs vary more
    summary = sorted(runs, key=lambda s: s.seconds - s.start_s)[len(runs) // 2]
    again = run("run0", filter=FilterConfig(min_technical=3.5), refilter=True)
    return {
        "clips": summary.inputs,
        "kept": summary.kept,
        "reasons": summary.reasons,
        "runs": len(runs),
        "seconds": round(summary.seconds, 2),
        "start_s": round(summary.start_s, 2),
        "ms_per_clip": round(1000 * (summary.seconds - summary.start_s) / count, 2),
        "refilter_s": round(again.seconds, 2),
        "report_mb": round((folder / "run0" / "out" / "report.html").stat().st_size / 1e6, 2),
    }


def watch(pid: int, peaks: dict[str, float], done: threading.Event) -> None:
    """Record the peak private memory of each kind of process in `peaks`, in MiB, until `done` is set."""
    import psutil

    driver = psutil.Process(pid)
    while not done.wait(0.25):
        try:
            family = [(driver, "driver"), *((p, None) for p in driver.children(recursive=True))]
        except psutil.Error:
            return
        for process, kind in family:
            try:
                words = " ".join(process.cmdline())
                if kind is None:
                    kind = "worker" if "ray::" in words else "decoder" if "spawn_main" in words else None
                if kind:
                    used = process.memory_info()
                    peaks[kind] = max(peaks.get(kind, 0.0), (used.rss - used.shared) / 2**20)
            except psutil.Error:
                continue


def run_size(size: int, folder: Path, workers: int) -> dict:
    """Curate `size` clips in a child process while watching its memory."""
    manifest = make_clips(folder, range(size))
    run = Path(tempfile.mkdtemp(prefix=f"run-{size}-", dir=folder))  # a new one: nothing of the user's is removed
    command = [sys.executable, __file__, "--one", manifest, "--folder", run]
    child = subprocess.Popen([*map(str, command), "--workers", str(workers)])
    peaks, done = {}, threading.Event()
    watcher = threading.Thread(target=watch, args=(child.pid, peaks, done))
    watcher.start()
    child.wait()
    done.set()
    watcher.join()
    if child.returncode:
        sys.exit(f"the run of {size} clips ended with code {child.returncode}")
    found = json.loads((run / "result.json").read_text())
    return found | {f"{kind}_peak_mib": round(v) for kind, v in sorted(peaks.items())}


def further(before: dict, after: dict) -> float:
    """Milliseconds for each clip beyond the previous size."""
    whole = [row["ms_per_clip"] * row["clips"] for row in (before, after)]
    return round((whole[1] - whole[0]) / (after["clips"] - before["clips"]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000], help="numbers of clips")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="decoding workers (default: one per core)")
    parser.add_argument("--folder", type=Path, help="where clips are generated and kept (default: a temporary folder)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "curation_growth.json", help="result file")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        found = measure_one(args.one, args.folder, args.workers)
        (args.folder / "result.json").write_text(json.dumps(found))
        return
    folder = args.folder or Path(tempfile.mkdtemp(prefix="growth-"))
    clip = f"{FRAMES / FPS:g} s of {WIDTH}x{HEIGHT} at {FPS} fps"
    rows = []
    for size in args.sizes:
        rows.append(run_size(size, folder, args.workers))
        if len(rows) > 1:
            rows[-1]["ms_per_further_clip"] = further(*rows[-2:])
        print(json.dumps(rows[-1]), flush=True)
        result = {"clip": clip, "workers": args.workers, "sizes": rows, "machine": machine.describe()}
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    if not args.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
