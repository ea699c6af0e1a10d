"""Motion and shots: Data-Juicer's own operators against ours, on the same videos and cores.

    python -m venv DJ && DJ/bin/pip install --no-deps py-data-juicer==1.6.1 && DJ/bin/pip install scenedetect==0.7.2 \
        opencv-python-headless==5.0.0.93 ray==2.60.0 datasets==5.2.0 dill==0.3.8 multiprocess==0.70.16 loguru tomli \
        pydantic pillow psutil regex aiohttp httpx jsonargparse beautifulsoup4 emoji tabulate lz4 zstandard wget av
    python benchmarks/data_juicer.py --python DJ/bin/python [FOLDER] [--repeats 3]

Theirs: VideoMotionScoreFilter (mean Farneback flow between frames it seeks to) and VideoSplitBySceneMapper
(PySceneDetect on every frame), called per sample as their executors call them, in as many processes as there are cores.
Ours: data_prep.measure.examine, one decode for everything, in the same number of processes.

  theirs_default   both with their defaults: 2 frames a second at full size; detected scenes are also written as files
  theirs_matched   flow at our size (128 pixels on the long side) and rate (2 pairs a second), scenes only detected
  ours_matched     motion and shots (camera and object motion separated, black, frozen, bars), one still
  ours_whole       everything curation measures without weights: adds technical quality, text, hashes, stills every 2 s

Videos on which their motion operator does not terminate are left out on all sides, and named. Sides take turns;
medians are reported. Start-up (imports, workers) is not counted. OpenCV uses one thread per process on both sides, its
FFmpeg as many as it chooses. Prints a table and writes results/data_juicer.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
CLIPS = HERE.parents[1] / "shared" / "clips" / "videos"
VERSIONS = ("py-data-juicer", "scenedetect", "opencv-python-headless", "numpy")


def one_thread() -> None:
    """Limit OpenCV to one thread in this worker."""
    import cv2

    cv2.setNumThreads(1)
    time.sleep(0.5)  # so that every worker gets one task


# Theirs: runs under --python, where this project is not installed.


def their_motion(path: str, matched: bool) -> float:
    from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
    from data_juicer.utils.constant import Fields, StatsKeys

    op = VideoMotionScoreFilter(max_size=128) if matched else VideoMotionScoreFilter()
    sample = op.compute_stats_single({"videos": [path], "text": "", Fields.stats: {}})
    return float(sample[Fields.stats][StatsKeys.video_motion_score][0])


def their_shots(path: str, matched: bool) -> int:
    from data_juicer.ops.mapper.video_split_by_scene_mapper import VideoSplitBySceneMapper

    with tempfile.TemporaryDirectory() as folder:
        op = VideoSplitBySceneMapper(save_dir=folder)
        if matched:
            op._split_video = lambda video, scenes, template: [video] * len(scenes)
        return len(op.process_single({"videos": [path], "text": ""})["videos"])


def theirs(job: tuple[str, bool]) -> dict:
    path, matched = job
    started = time.perf_counter()
    motion = their_motion(path, matched)
    between = time.perf_counter()
    shots = their_shots(path, matched)
    ended = time.perf_counter()
    return {"motion_s": between - started, "shots_s": ended - between, "motion": motion, "cuts": shots - 1}


def ends(job: tuple[str, int]) -> bool:
    """Whether their motion operator finishes a video within a limit of CPU seconds: it seeks past the end of some WebM
    files and then reads the last picture forever."""
    path, limit_s = job

    def stop(*_):
        raise TimeoutError

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        their_motion(path, True)
    except TimeoutError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return True


def their_warm(path: str) -> None:
    one_thread()
    theirs((path, True))


def serve() -> None:
    """Answer JSON lines: {files, limit_s} with the files that finish, {files, matched} with {wall_s, rows, cpu_s}."""
    from loguru import logger

    sys.path[:] = [p for p in sys.path if Path(p).resolve() != HERE]  # this file would shadow their package
    logger.remove()
    answers, sys.stdout = sys.stdout, sys.stderr  # their operators print
    versions = {name: metadata.version(name) for name in VERSIONS}
    cores = os.cpu_count() or 1
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if "limit_s" in job:
            with multiprocessing.get_context("spawn").Pool(cores) as pool:
                good = pool.map(ends, [(path, job["limit_s"]) for path in job["files"]], chunksize=1)
            print(json.dumps([p for p, ok in zip(job["files"], good) if ok]), file=answers, flush=True)
            continue
        with multiprocessing.get_context("spawn").Pool(cores) as pool:
            pool.map(their_warm, [job["files"][-1]] * cores, chunksize=1)
            started, before = time.perf_counter(), cpu_of_tree(pool)
            rows = list(pool.imap_unordered(theirs, [(p, job["matched"]) for p in job["files"]], chunksize=1))
            wall_s = time.perf_counter() - started
            cpu_s = cpu_of_tree(pool) - before
        print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "rows": rows}), file=answers, flush=True)


# Ours.


def our_one(job: tuple[str, bool]) -> dict:
    from data_prep.measure.cuts import Candidate, ShotConfig, cuts
    from data_prep.measure.examine import ExamineConfig, examine

    path, matched = job
    row, _ = examine(path, ExamineConfig(still_every_s=1e9) if matched else ExamineConfig())
    columns = (row[name] for name in ("cut_s", "cut_change", "cut_histogram", "cut_ratio"))
    return {"cuts": len(cuts((Candidate(*c) for c in zip(*columns)), ShotConfig()))}


def our_warm(path: str) -> None:
    one_thread()
    our_one((path, True))


def ours(pool, files: list[str], matched: bool) -> dict:
    started, before = time.perf_counter(), cpu_of_tree(pool)
    rows = list(pool.imap_unordered(our_one, [(p, matched) for p in files], chunksize=1))
    return {"wall_s": time.perf_counter() - started, "cpu_s": cpu_of_tree(pool) - before, "rows": rows}


def cpu_of_tree(pool) -> float:
    """CPU seconds of a pool's workers and of the child processes they have waited for."""
    return sum(pool.map(own_cpu, range(pool._processes), chunksize=1))


def own_cpu(_: int) -> float:
    time.sleep(0.2)  # so that every worker answers once
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=CLIPS, help="folder of videos")
    parser.add_argument("--python", help="Python interpreter with Data-Juicer installed")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side (default %(default)s)")
    parser.add_argument("--limit-s", type=int, default=60, help="leave out videos on which theirs needs more CPU")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "data_juicer.json", help="result file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    if not args.python:
        parser.error("--python: required, an interpreter with Data-Juicer; --help shows how to set one up")
    sys.path.insert(0, str(HERE))
    import machine

    files = sorted((str(p.resolve()) for p in args.folder.iterdir()), key=lambda p: -os.path.getsize(p))
    for path in files:  # into the page cache, for all sides
        Path(path).read_bytes()
    cores = os.cpu_count() or 1
    command = [args.python, __file__, "--serve"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    versions = json.loads(server.stdout.readline())

    def ask(**job) -> list | dict:
        print(json.dumps({"files": files, **job}), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())

    everything, files = files, ask(limit_s=args.limit_s)

    turns: dict[str, list[dict]] = {}
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(our_warm, [files[-1]] * cores, chunksize=1)
        sides = {
            "theirs_default": lambda: ask(matched=False),
            "ours_whole": lambda: ours(pool, files, False),
            "theirs_matched": lambda: ask(matched=True),
            "ours_matched": lambda: ours(pool, files, True),
        }
        for _ in range(args.repeats):
            for side, run in sides.items():
                turns.setdefault(side, []).append(run())
    server.stdin.close()
    server.wait()

    def middle(side: str, key: str) -> float:
        return round(statistics.median(turn[key] for turn in turns[side]), 2)

    def ratio(theirs: str, ours: str, key: str) -> float:
        return round(statistics.median(t[key] / o[key] for t, o in zip(turns[theirs], turns[ours])), 2)

    table = {
        side: {key: middle(side, key) for key in ("wall_s", "cpu_s")}
        | {"cuts": sum(row["cuts"] for row in turns[side][0]["rows"])}
        for side in turns
    }
    for side in ("theirs_default", "theirs_matched"):
        rows = turns[side][0]["rows"]
        table[side] |= {key: round(sum(row[key] for row in rows), 2) for key in ("motion_s", "shots_s")}
    pairs = {
        "default": ("theirs_default", "ours_whole"),
        "matched": ("theirs_matched", "ours_matched"),
        "matched_to_whole": ("theirs_matched", "ours_whole"),
    }
    result = {
        "files": len(files),
        "repeats": args.repeats,
        "left_out": [Path(p).name for p in everything if p not in files],
        "versions": versions,
        "sides": table,
        "times_faster": {n: {key: ratio(*pair, key) for key in ("wall_s", "cpu_s")} for n, pair in pairs.items()},
        "machine": machine.describe(),
    }
    print(f"{'':16} {'wall s':>8} {'CPU s':>8} {'cuts':>6}")
    for side, row in table.items():
        print(f"{side:16} {row['wall_s']:8.2f} {row['cpu_s']:8.2f} {row['cuts']:6}")
    print(json.dumps(result["times_faster"], indent=1))
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
