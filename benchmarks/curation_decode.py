"""Does curation cost more than decoding? Examining every video of a folder (probe, shots, motion, technical, text,
hashes, stills) against bare decoding of the same files by PyAV, on the same cores.

    python benchmarks/curation_decode.py [FOLDER] [--repeats 3]    # prints a table, writes results/curation_decode.json

Three sides take turns; medians are reported:
  bare         one file after another, all threads of the decoder, every frame: the baseline for the target
  bare_spread  as many files at once as there are cores, one thread each: the most that plain decoding gets out of them
  curation     as many files at once as there are cores, one thread each, all measurements
Worker start-up is not counted. CPU seconds are reported next to wall seconds: they are more reliable on a shared
machine (though they still grow with load, through shared caches and memory).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import machine

HERE = Path(__file__).parent
CLIPS = HERE.parents[1] / "shared" / "clips" / "videos"


def bare(path: str, threads: int) -> dict:
    """Decode all frames the way PyAV's examples do."""
    import av

    before, count = time.process_time(), 0
    with av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        for packet in container.demux(stream):
            try:
                count += len(packet.decode())
            except av.FFmpegError:
                continue
    return {"frames": count, "cpu_s": time.process_time() - before}


def bare_one_thread(path: str) -> dict:
    """`bare` with one decoder thread."""
    return bare(path, 1)


def curation(path: str) -> dict:
    """Examine one file as curation does; seconds of each stage."""
    from data_prep.measure.examine import STAGES, ExamineConfig, examine

    before = time.process_time()
    row, _ = examine(path, ExamineConfig())
    return {stage: row[f"{stage}_s"] for stage in STAGES} | {"cpu_s": time.process_time() - before}


def warm(_: int) -> None:
    """Import everything in a worker before the clock starts."""
    import cv2

    import data_prep.measure.examine  # noqa: F401

    cv2.setNumThreads(1)
    time.sleep(0.5)


def timed(side) -> tuple[float, list[dict]]:
    """Wall seconds of one turn of a side, and its rows."""
    started = time.perf_counter()
    rows = side()
    return time.perf_counter() - started, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=CLIPS, help="folder of videos")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side (default %(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "curation_decode.json", help="result file")
    args = parser.parse_args()
    import data_prep.media.probe  # noqa: F401  (quiets FFmpeg for all sides)

    files = sorted((str(p) for p in args.folder.iterdir()), key=lambda p: -os.path.getsize(p))
    for path in files:  # into the page cache, for all sides
        Path(path).read_bytes()
    cores = os.cpu_count() or 1
    wall: dict[str, list[float]] = {"bare": [], "bare_spread": [], "curation": []}
    cpu: dict[str, list[float]] = {side: [] for side in wall}
    stages: list[dict] = []
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(warm, range(cores), chunksize=1)
        sides = {
            "bare": lambda: [bare(path, 0) for path in files],
            "bare_spread": lambda: list(pool.imap_unordered(bare_one_thread, files, chunksize=1)),
            "curation": lambda: list(pool.imap_unordered(curation, files, chunksize=1)),
        }
        for _ in range(args.repeats):
            for side, run in sides.items():
                seconds, rows = timed(run)
                wall[side].append(seconds)
                cpu[side].append(sum(row["cpu_s"] for row in rows))
                if side == "bare":
                    frames = sum(row["frames"] for row in rows)
                if side == "curation":
                    stages += rows
    names = [name for name in stages[0] if name != "cpu_s"]
    whole = sum(row[name] for row in stages for name in names)
    middle = statistics.median
    result = {
        "files": len(files),
        "frames": frames,
        "repeats": args.repeats,
        "wall_s": {side: round(middle(v), 2) for side, v in wall.items()},
        "cpu_s": {side: round(middle(v), 2) for side, v in cpu.items()},
        # Of adjacent turns, so that a change of load affects both.
        "wall_ratio": round(middle(c / b for c, b in zip(wall["curation"], wall["bare"])), 2),
        "cpu_ratio": round(middle(c / b for c, b in zip(cpu["curation"], cpu["bare"])), 2),
        "wall_ratio_to_spread": round(middle(c / b for c, b in zip(wall["curation"], wall["bare_spread"])), 2),
        "cpu_ratio_to_spread": round(middle(c / b for c, b in zip(cpu["curation"], cpu["bare_spread"])), 2),
        "share_of_time": {name: round(sum(row[name] for row in stages) / whole, 3) for name in names},
        "what_stops_it": "decoding: frames that others are predicted from must be decoded, whatever is measured; files "
        "without B-frames, VP8, VP9 and AV1 give nothing to leave out",
        "machine": machine.describe(),
    }
    print(f"{'':12} {'wall s':>8} {'CPU s':>8}")
    for side in wall:
        print(f"{side:12} {result['wall_s'][side]:8.2f} {result['cpu_s'][side]:8.2f}")
    print(json.dumps({k: v for k, v in result.items() if k not in ("wall_s", "cpu_s")}, indent=1))
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
