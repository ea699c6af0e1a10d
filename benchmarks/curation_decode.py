"""Does curation cost more than decoding? Examination of every video of a folder (probe, shots, motion, technical, text,
hashes, stills) against bare decoding of the same files by PyAV with all threads, on the same cores.

python benchmarks/curation_decode.py [FOLDER] : prints a table and writes results/curation_decode.json. Start-up of the
workers is not counted. CPU seconds are given beside wall seconds: they say more on a machine that others use too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import machine

HERE = Path(__file__).parent
CLIPS = HERE.parents[1] / "shared" / "clips" / "videos"


def bare(path: str) -> int:
    """Frames decoded, as PyAV's examples do it."""
    import av

    count = 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for packet in container.demux(stream):
            try:
                count += len(packet.decode())
            except av.FFmpegError:
                continue
    return count


def one(path: str) -> dict:
    from data_prep.examine import STAGES, ExamineConfig, examine

    before = time.process_time()
    row, _ = examine(path, ExamineConfig())
    return {stage: row[f"{stage}_s"] for stage in STAGES} | {
        "seconds": row["seconds"],
        "cpu_s": time.process_time() - before,
    }


def warm(_: int) -> None:
    import cv2

    import data_prep.examine  # noqa: F401

    cv2.setNumThreads(1)
    time.sleep(0.5)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else CLIPS
    files = sorted((str(p) for p in folder.iterdir()), key=lambda p: -os.path.getsize(p))
    for path in files:  # into the page cache, for both
        Path(path).read_bytes()
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    frames = sum(bare(path) for path in files)
    bare_s = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    bare_cpu_s = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime

    cores = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(warm, range(cores), chunksize=1)
        started = time.perf_counter()
        rows = list(pool.imap_unordered(one, files, chunksize=1))
        wall_s = time.perf_counter() - started
    cpu_s = sum(row["cpu_s"] for row in rows)
    whole = sum(row["seconds"] for row in rows)
    shares = {s: sum(row[s] for row in rows) / whole for s in ("probe", "decode", "shots", "motion", "stills")}
    result = {
        "files": len(files),
        "frames": frames,
        "bare_decode_wall_s": round(bare_s, 2),
        "bare_decode_cpu_s": round(bare_cpu_s, 2),
        "curation_wall_s": round(wall_s, 2),
        "curation_cpu_s": round(cpu_s, 2),
        "wall_ratio": round(wall_s / bare_s, 2),
        "cpu_ratio": round(cpu_s / bare_cpu_s, 2),
        "share_of_time": {k: round(v, 3) for k, v in shares.items()},
        "machine": machine.describe(),
    }
    print(json.dumps(result, indent=1))
    (HERE / "results" / "curation_decode.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
