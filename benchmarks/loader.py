"""Does reading by batch plan cost anything? Our loader, webdataset and MosaicML streaming, same latents and cores.

Every reader delivers the same batches (float32 latents, padded text and mask) in its own process; rounds are
interleaved and medians reported, since the machine may be shared. Ours reads in random order and verifies every
checksum; webdataset reads in sequence through a shuffle buffer; streaming shuffles and, by default, verifies nothing.

    python benchmarks/loader.py --streaming-python VENV/bin/python    # writes benchmarks/results/loader.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from machine import describe

RESULT = Path(__file__).parent / "results" / "loader.json"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
SIZES = {  # bucket, samples, samples per shard
    "64p 2 s (15 KB)": ("video_48x80_32f", 4000, 500),
    "256p 17 s (1.2 MB)": ("video_192x352_272f", 192, 24),
}
BATCH, WIDTH, SECONDS, FAR = 8, 512, 4.0, 1_000_000
READERS = {  # name -> numbers of parallel readers to try; the best one counts
    "lingen": (1, 2),
    "webdataset": (0, 2),
    "streaming": (0, 2),
}


def write_ours(folder: Path, name: str, count: int, per_shard: int) -> None:
    from lingen.data.synthetic import write_random_latents

    encoder = ("random", "0" * 16, WIDTH)
    write_random_latents(folder, {name: count}, per_shard, encoders=[encoder], tokens=range(20, 78))


def write_streaming(folder: Path, ours: Path, name: str) -> None:
    """Write the same samples in MosaicML streaming's format."""
    from safetensors.torch import load
    from streaming import MDSWriter

    from lingen.data.shards import LATENT, TEXT, read_shard

    def members(tree: str, suffix: str, tensor: str):
        for shard in sorted((ours / tree / name).glob("*.tar")):
            for key, kind, data in read_shard(shard):
                if kind == suffix:
                    yield key, load(data)[tensor].numpy()

    columns = {"key": "str", "latent": "ndarray:float16", "text": "ndarray:float16"}
    with MDSWriter(out=str(folder), columns=columns) as out:
        for (key, latent), (_, text) in zip(members("latents", LATENT, "latent"), members("text/random", TEXT, "text")):
            out.write({"key": key, "latent": latent, "text": text})


def collate(pairs):
    """Collate (latent, text) pairs into the batch that training needs, like lingen.data.loader."""
    latent_BCTHW = torch.empty((len(pairs), *pairs[0][0].shape), dtype=torch.float32)
    longest = max(len(text) for _, text in pairs)
    text_BLD = torch.zeros(len(pairs), longest, WIDTH)
    mask_BL = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for i, (latent, text) in enumerate(pairs):
        latent_BCTHW[i] = latent
        text_BLD[i, : len(text)] = text
        mask_BL[i, : len(text)] = True
    return latent_BCTHW, text_BLD, mask_BL


def read_lingen(folder: Path, name: str, parallel: int, start: int):
    from lingen.data.batch_plan import BatchPlan
    from lingen.data.loader import LatentLoader
    from lingen.data.shard_index import ShardIndex

    index = ShardIndex.open(folder / "ours")
    plan = BatchPlan(index, seed=0, batch_size=BATCH, image_ratio=0)
    for batch in LatentLoader(index, plan, start_step=start, threads=parallel):
        yield batch.latent_BCTHW


def read_webdataset(folder: Path, name: str, parallel: int, start: int):
    import webdataset
    from safetensors.torch import load

    def pairs():
        trees = []
        for tree in ("latents", "text/random"):
            urls = sorted(str(p) for p in (folder / "ours" / tree / name).glob("*.tar"))
            trees.append(webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=None).repeat())
        for a, b in zip(*trees):
            yield load(a["latent.safetensors"])["latent"], load(b["text.safetensors"])["text"]

    class Pairs(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(webdataset.filters._shuffle(pairs(), 100, initial=100))

    data = torch.utils.data.DataLoader(Pairs(), batch_size=BATCH, num_workers=parallel, collate_fn=collate)
    for step, (latent, _, _) in enumerate(data):
        if step >= start:  # the only way to a step is through all the steps before it
            yield latent


def read_streaming(folder: Path, name: str, parallel: int, start: int):
    from streaming import StreamingDataLoader, StreamingDataset

    data = StreamingDataset(local=str(folder / "streaming"), shuffle=True, batch_size=BATCH, shuffle_seed=0)
    batches = len(data) // BATCH

    def collate_rows(rows):
        return collate([(torch.from_numpy(r["latent"].copy()), torch.from_numpy(r["text"].copy())) for r in rows])

    loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=parallel, collate_fn=collate_rows, drop_last=True)
    if start:
        where = {"epoch": start // batches, "sample_in_epoch": start % batches * BATCH}
        loader.load_state_dict(where | {"num_canonical_nodes": 1, "shuffle_seed": 0, "initial_physical_nodes": 1})
    while True:
        for latent, _, _ in loader:
            yield latent


def measure(folder: Path, reader: str, name: str, parallel: int, start: int, seconds: float) -> None:
    """Print seconds to the first batch, then samples per second, CPU time and memory. Runs in its own process.

    CPU time per sample is the number to trust on a shared machine.
    """
    torch.set_num_threads(1)
    imports = {
        "lingen": ("lingen.data.loader", "pyarrow.parquet"),
        "webdataset": ("webdataset",),
        "streaming": ("streaming",),
    }
    for module in imports[reader]:  # importing the libraries is not measured
        importlib.import_module(module)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    stream = globals()[f"read_{reader}"](folder, name, parallel, start)
    first = next(stream)
    ready = time.perf_counter()
    for _ in range(4):
        next(stream)
    count, clock, cpu, total = 0, time.perf_counter(), _cpu_seconds(), first.double().sum() * 0
    while time.perf_counter() - clock < seconds:
        total += next(stream).view(-1)[0]  # touch the data
        count += BATCH
    rate = count / (time.perf_counter() - clock)
    cpu_ms = 1e3 * (_cpu_seconds() - cpu) / max(1, count)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 1024
    memory = own + sum(w.memory_full_info().pss for w in psutil.Process().children(recursive=True)) / 2**20
    found = {"first_s": ready - begin, "samples_per_s": rate, "cpu_ms_per_sample": cpu_ms, "memory_mb": memory}
    print(json.dumps(found), flush=True)
    os._exit(0)  # worker processes of an abandoned stream can take long to join


def _cpu_seconds() -> float:
    """CPU seconds of this process (all threads) and its workers."""
    times = [p.cpu_times() for p in (psutil.Process(), *psutil.Process().children(recursive=True))]
    return sum(t.user + t.system for t in times)


def child(python: str, folder: Path, *arguments) -> dict:
    command = [python, __file__, "--child", str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, size: str, pythons: dict[str, str], rounds: int) -> dict:
    """Medians of interleaved rounds at each reader's best parallelism, and the time to reach step one million."""
    name, _, _ = SIZES[size]
    runs: dict = {(r, p): [] for r in pythons for p in READERS[r]}
    for _ in range(rounds):
        for reader, parallel in runs:
            runs[reader, parallel].append(child(pythons[reader], folder, reader, name, parallel, 0, SECONDS))
    table = {}
    for reader in pythons:
        medians = {
            p: {k: round(statistics.median(run[k] for run in runs[reader, p]), 3) for k in runs[reader, p][0]}
            for p in READERS[reader]
        }
        best = max(medians, key=lambda p: medians[p]["samples_per_s"])
        table[reader] = medians[best] | {"parallel": best, "all": {str(p): m for p, m in medians.items()}}
        if reader == "webdataset":
            skip = 400
            far = child(pythons[reader], folder, reader, name, 0, skip, 0.1)["first_s"] - medians[0]["first_s"]
            table[reader]["resume_s"] = round(far / skip * FAR, 1)
            table[reader]["resume_note"] = f"extrapolated from reading past {skip} batches; it has no other way"
        else:
            far = [child(pythons[reader], folder, reader, name, table[reader]["parallel"], FAR, 0.1) for _ in range(3)]
            table[reader]["resume_s"] = round(statistics.median(run["first_s"] for run in far), 3)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streaming-python", help="interpreter with mosaicml-streaming; left out without")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, help="result file")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    parser.add_argument("--write-streaming", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.write_streaming:
        folder, ours, name = args.write_streaming
        return write_streaming(Path(folder), Path(ours), name)
    if args.child:
        folder, reader, name, parallel, start, seconds = args.child
        return measure(Path(folder), reader, name, int(parallel), int(start), float(seconds))
    pythons = {"lingen": sys.executable, "webdataset": sys.executable}
    if args.streaming_python:
        pythons["streaming"] = args.streaming_python
    result = {"machine": describe(), "versions": versions(pythons), "batch": BATCH, "rounds": args.rounds, "sizes": {}}
    for size, (name, count, per_shard) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_ours(Path(folder, "ours"), name, count, per_shard)
            if args.streaming_python:
                command = [args.streaming_python, __file__, "--write-streaming", f"{folder}/streaming"]
                subprocess.run([*command, f"{folder}/ours", name], check=True, env=ENVIRONMENT)
            result["sizes"][size] = table = compare(Path(folder), size, pythons, args.rounds)
        for reader, row in table.items():
            speed = f"{row['samples_per_s']:9.1f} samples/s {row['cpu_ms_per_sample']:7.3f} ms CPU each"
            rest = f"resume {row['resume_s']:9.3f} s {row['memory_mb']:7.1f} MB  ({row['parallel']} parallel)"
            print(f"{size:20} {reader:11} {speed}  {rest}")
    result["machine"]["load_average_after"] = [round(x, 2) for x in os.getloadavg()]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    return None


def versions(pythons: dict[str, str]) -> dict[str, str]:
    from importlib.metadata import version

    found = {"webdataset": version("webdataset"), "safetensors": version("safetensors")}
    if "streaming" in pythons:
        code = "from importlib.metadata import version as v; print(v('mosaicml-streaming'))"
        done = subprocess.run([pythons["streaming"], "-c", code], capture_output=True, text=True, check=True)
        found["mosaicml-streaming"] = done.stdout.strip()
    return found


if __name__ == "__main__":
    main()
