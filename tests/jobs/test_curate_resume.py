"""kill -9 in the middle of a curation: of a decoding process, then of the driver. The same command ends as if nothing
had happened."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from data_prep.curate.config import CurateConfig
from data_prep.curate.job import curate
from data_prep.curate.license import LicenseConfig
from data_prep.curate.near_duplicates import DuplicateConfig
from data_prep.measure.run import DecodeConfig

ROOT = Path(__file__).parents[2]
JOB = [sys.executable, str(ROOT / "jobs" / "curate.py")]
COUNT = 8


def args_of(folder, output):
    flags = ["--license.assume", "CC0-1.0", "--decode.workers", "1", "--duplicates.max-bits", "None"]
    return [*JOB, "--input", str(folder), "--output", str(output), *flags]


def undisturbed(folder, output):
    """What args_of asks for, in this process: no second start of Python, Ray and MLflow."""
    curate(
        CurateConfig(
            input=str(folder),
            output=output,
            license=LicenseConfig(assume="CC0-1.0"),
            decode=DecodeConfig(workers=1),
            duplicates=DuplicateConfig(max_bits=None),
        )
    )


def ledger(output):
    table = pq.read_table(output / "ledger.parquet").drop_columns(["uri"])
    return sorted(table.to_pylist(), key=lambda r: (r["row"], r["clip_id"], r["stage"]))


def parts(output):
    return list(Path(f"{output}.store").glob("signals-*/*.parquet"))


def wait_for(condition, seconds=150):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail("what the test waits for did not happen")


def marked(mark, word=""):
    """Processes that this test started, directly or through Ray: they inherit a mark in their environment."""
    out = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CURATE_TEST") == mark and word in " ".join(process.cmdline()):
                out.append(process)
        except psutil.Error:
            continue
    return out


@pytest.mark.slow
def test_kill_9_of_a_decoder_and_of_the_driver_loses_and_repeats_nothing(clips, tmp_path, request):
    media = tmp_path / "media"
    media.mkdir()
    clip = (clips / "videos" / "sam2_02_cups.mp4").read_bytes()
    for i in range(COUNT):  # the same pictures, but distinct content: a free box at the end
        name = f"{i:02d}"
        (media / f"{name}.mp4").write_bytes(clip + (8 + 4).to_bytes(4, "big") + b"free" + i.to_bytes(4, "big"))
        (media / f"{name}.txt").write_text(f"Clip number {i}.")
    (media / "broken.mp4").write_bytes(clip[:1000])
    (media / "broken.txt").write_text("Cut short.")

    output = tmp_path / "killed"
    mark = uuid.uuid4().hex
    driver = subprocess.Popen(args_of(media, output), env={**os.environ, "CURATE_TEST": mark})
    wait_for(lambda: parts(output))
    decoder = wait_for(lambda: marked(mark, "spawn_main(tracker_fd"))[0]
    decoder.send_signal(signal.SIGKILL)
    wait_for(
        lambda: {p.pid for p in marked(mark, "spawn_main(tracker_fd")} - {decoder.pid} or driver.poll() is not None
    )
    assert driver.poll() is None, "the job ended too early for the test to mean something"
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    for process in marked(mark):  # what Ray leaves behind when its driver is gone
        process.kill()
    assert not (output / "manifest.json").exists()
    safe = sum(pq.read_metadata(p).num_rows for p in parts(output))
    assert 0 < safe < COUNT + 1

    log, expected = tmp_path / "again.log", tmp_path / "expected"
    with log.open("w") as lines:
        again = subprocess.Popen(args_of(media, output), stdout=lines, stderr=subprocess.STDOUT)
    try:
        request.getfixturevalue("ray_cluster")  # meanwhile
        undisturbed(media, expected)
        assert again.wait(timeout=300) == 0, log.read_text()[-2000:]
    finally:
        again.kill()
    keys = [key for part in parts(output) for key in pq.read_table(part, columns=["key"])["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == COUNT + 1  # what was safe was not decoded again
    assert ledger(output) == ledger(expected)
    reasons = json.loads((expected / "summary.json").read_text())
    assert (reasons["kept"], reasons["errors"]) == (COUNT, 1)
