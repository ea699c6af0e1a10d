"""The jobs that faults are tried on, at the smallest size: what to type, and what their output holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import pyarrow.parquet as pq
import torch

from data_prep.media.fetch import content_hash
from lingen.data.synthetic import write_random_encoding
from lingen.tae.config import TAEConfig
from lingen.tae.pretrained import save_tae
from lingen.tae.tae import TAE

ROOT = Path(__file__).parents[2]
MEDIA = ("videos/media_bear-vp9.webm", "videos/sample-videos_milk.mkv", "photos/test_data_owl.jpg")
BROKEN = "odd/streamio-ffmpeg_broken.mp4"
FIT = ("--fit.batch-size", "2", "--fit.log-every", "1", "--fit.checkpoint-every", "2", "--fit.warmup", "1")


@dataclasses.dataclass(frozen=True)
class Job:
    """A job on fixed inputs. `contents` lists the units of its output: what may be neither lost nor doubled."""

    name: str
    flags: Callable[[Path, Path], Sequence[str]]
    """(folder of the inputs, output) -> flags"""
    contents: Callable[[Path], Counter[str]]
    suffix: str = ""
    """of the output, when it is a file"""

    def command(self, inputs: Path, output: Path) -> list[str]:
        return [sys.executable, str(ROOT / "jobs" / f"{self.name}.py"), *self.flags(inputs, output)]


def make_inputs(folder: Path, clips: Path) -> None:
    """What the jobs read: a manifest of real clips, one of them broken, a TAE, random latents, a takedown list."""
    (folder / "clips").mkdir(parents=True)
    rows = ["uri,caption,license"]
    for name in (*MEDIA, BROKEN):
        shutil.copy(clips / name, folder / "clips")
        rows.append(f"{Path(name).name},A clip of {Path(name).stem}.,CC0-1.0")
    (folder / "clips" / "manifest.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    save_tae(TAE(TAEConfig(channels=(8, 8, 16, 16), blocks=1, decoder_blocks=1)), folder / "tae")
    write_random_encoding(folder / "random", {"video_64x64_16f": 6, "image_64x64": 4}, per_shard=2)
    (folder / "takedown.csv").write_text(f"content\n{content_hash(str(clips / MEDIA[0]))}\n")


def ledger_rows(output: Path) -> Counter[str]:
    rows = pq.read_table(output / "ledger.parquet").to_pylist()
    return Counter(f"{r['clip_id']} {r['stage']} {r['verdict']} {r['reason']}" for r in rows)


def samples(output: Path) -> Counter[str]:
    """Samples of every bucket, of latents and of text, with the digest of their shard's bytes."""
    found: Counter[str] = Counter()
    for index in sorted(output.rglob("index.parquet")):
        for row in pq.read_table(index).to_pylist():
            shard = hashlib.sha256((index.parent / row["shard"]).read_bytes()).hexdigest()[:8]
            found[f"{index.parent.relative_to(output)} {row['key']} {shard}"] += 1
    return found


def curve_and(weights: str) -> Callable[[Path], Counter[str]]:
    """Steps of the loss curve with their losses, and the digest of the weights."""

    def contents(output: Path) -> Counter[str]:
        lines = (output / "tracking" / "metrics.jsonl").read_text().splitlines()
        reports = [(e["step"], e["metrics"]) for e in map(json.loads, lines)]
        losses = [f"step {s} {m.get('loss', m.get('l1'))}" for s, m in reports if "loss" in m or "l1" in m]
        digest = hashlib.sha256((output / weights).read_bytes()).hexdigest()[:8]
        return Counter([*losses, f"weights {digest}"])

    return contents


def video_frames(output: Path) -> Counter[str]:
    with av.open(str(output)) as video:
        return Counter(f"frame {i}" for i, _ in enumerate(video.decode(video=0)))


CURATE = Job(
    "curate",
    lambda inputs, out: ("--input", str(inputs / "clips" / "manifest.csv"), "--output", str(out)),
    ledger_rows,
)
ENCODE = Job(
    "encode",
    lambda inputs, out: (
        *("--curated", str(inputs / "curate"), "--tae", str(inputs / "tae"), "--output", str(out)),
        *("--resolution", "64", "--frames", "16", "--text", "lingen-tiny", "--shard-mb", "0.01"),
    ),
    samples,
)
TRAIN_TAE = Job(
    "train_tae",
    lambda inputs, out: (
        *("--curated", str(inputs / "curate"), "--output", str(out), "--pixels.resolution", "64"),
        *("--pixels.frames", "16", "--fit.preset", "tae_tiny", "--fit.crop", "64", "--fit.frames", "8"),
        *("--fit.steps", "6", "--fit.validate-every", "6", *FIT),
    ),
    curve_and("tae.safetensors"),
)
TRAIN = Job(
    "train",
    lambda inputs, out: (
        *("--stage", "demo_t2v_64p_1s", "--shards", str(inputs / "random"), "--output", str(out)),
        *("--fit.steps", "6", "--fit.held-out", "0", "--fit.validate-every", "0", "--sampler.steps", "2", *FIT),
    ),
    curve_and("model/ema.safetensors"),
)
GENERATE = Job(
    "generate",
    lambda inputs, out: (
        *("--checkpoint", str(inputs / "train"), "--prompt", "a red ball", "--output", str(out)),
        *("--sampler.steps", "2"),
    ),
    video_frames,
    suffix=".mp4",
)
TAKEDOWN = Job(
    "takedown",
    lambda inputs, out: (
        *("--shards", str(inputs / "encode"), "--takedown", str(inputs / "takedown.csv"), "--output", str(out)),
    ),
    samples,
)
JOBS = {job.name: job for job in (CURATE, ENCODE, TRAIN_TAE, TRAIN, GENERATE, TAKEDOWN)}


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """What a job gives when nothing happens, and how long it takes."""

    contents: Counter[str]
    seconds: float
    bytes: int


def run_undisturbed(job: Job, inputs: Path, environment: dict[str, str]) -> Undisturbed:
    """Run the job once; its output stays beside the inputs under its name, for the jobs that read it."""
    output = inputs / f"{job.name}{job.suffix}"
    began = time.monotonic()
    done = subprocess.run(job.command(inputs, output), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    seconds = time.monotonic() - began
    files = [output] if job.suffix else [p for p in output.rglob("*") if p.is_file()]
    return Undisturbed(job.contents(output), seconds, sum(p.stat().st_size for p in files))
