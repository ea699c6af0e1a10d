"""The whole job on files that ended it once, and what it says of bugs of ours."""

import csv
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.curate.estimate import Estimate
from data_prep.curate.ledger import Ledger
from data_prep.media.errors import replay
from jobs import curate
from lingen.io.manifest import read_json

ROOT = Path(__file__).parents[2]


def exif(kind, value):
    """EXIF with an orientation tag of this type."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x0112, kind, 2, value) + bytes(4)


@pytest.fixture
def hostile(clips, tmp_path):
    """{file: the reason it must end with, "" for kept}."""
    frog = (clips / "videos" / "learning-area_frog.mp4").read_bytes()
    photograph = Image.open(clips / "photos" / "test_data_owl.jpg")
    photograph.save(tmp_path / "text_orientation.jpg", exif=exif(2, b"6\0\0\0"))
    photograph.convert("L").save(tmp_path / "two_orientations.jpg", exif=exif(3, b"\6\0\6\0"))
    (tmp_path / "unknown_codec.mp4").write_bytes(frog.replace(b"avc1", b"zzzz"))
    (tmp_path / "frog.mp4").write_bytes(frog)
    strip = np.random.default_rng(0).integers(0, 256, (70_000, 16, 3), np.uint8)
    Image.fromarray(strip).save(tmp_path / "strip.png")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "huge.mp4").touch()
    os.truncate(tmp_path / "huge.mp4", 2 << 40)  # a hole: no disk is used
    return {
        "text_orientation.jpg": "",
        "two_orientations.jpg": "",
        "frog.mp4": "",
        "strip.png": "too_small",
        "unknown_codec.mp4": "unsupported_codec",
        "pipe.mp4": "not_a_file",
        "huge.mp4": "too_large",
    }


def run(*args):
    job = [sys.executable, str(ROOT / "jobs" / "curate.py"), *map(str, args)]
    done = subprocess.run(job, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_hostile_files_are_rows_and_the_job_ends_well(hostile, tmp_path):
    manifest = tmp_path / "m.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("uri", "license", "caption"), *((name, "MIT", "Words.") for name in hostile)])
    out = tmp_path / "out"
    table = run("--input", manifest, "--output", out)
    rows = pq.read_table(out / "ledger.parquet", filters=[("stage", "=", "final")]).to_pylist()
    assert {Path(row["uri"]).name: row["reason"] for row in rows} == hostile
    summary = read_json(out / "summary.json")
    assert summary["inputs"] == summary["kept"] + summary["dropped"] + summary["errors"] == len(hostile)
    assert summary["internal_errors"] == 0
    assert "internal errors" in table
    assert "a bug of ours" not in table
    stills = [
        row for part in (out.parent / "out.store").glob("stills-*/*.parquet") for row in pq.read_table(part).to_pylist()
    ]
    assert all(jpeg[:2] == b"\xff\xd8" for row in stills for jpeg in row["jpeg"])
    assert "(3 unusable" in run("--input", manifest, "--output", out, "--estimate", 10)


def test_the_closing_table_says_how_to_replay_a_bug_of_ours(tmp_path):
    ledger = Ledger(["a", "b"], [0, 1], ["a.mp4", "b.mp4"])
    first = np.array([True, False])
    detail = f"TypeError: x (y.py:1); replay: {replay('a.mp4')}"
    ledger.decide("read", "error", "internal_error", detail, where=first)
    ledger.decide("read", "error", "truncated", "cut", where=~first)
    ledger.write(tmp_path / "ledger.parquet", "")
    assert curate.internal_errors(tmp_path) == [detail]


def test_an_estimate_says_how_to_replay_a_bug_of_ours(monkeypatch, capsys):
    detail = f"TypeError: x (y.py:1); replay: {replay('a.mp4')}"
    found = Estimate({"probe": 1.0}, 1, 1, 0.0, 0.0, 1, 1, 1.0, [detail])
    monkeypatch.setattr(curate, "estimate_run", lambda config: found)
    curate.print_estimate(None)
    assert f"internal error, a bug of ours, please report it: {detail}" in capsys.readouterr().out
