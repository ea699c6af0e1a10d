"""Two processes in one output folder: the second is refused, and a killed one leaves no lock."""

import subprocess
import sys
import time

import pytest

from lingen.io.folder_lock import FolderLock
from lingen.io.manifest import OutputFolder, write_json

HOLD = """
import sys, time
from pathlib import Path
from lingen.io.manifest import OutputFolder
folder = OutputFolder.open(sys.argv[1], "train", {}, {})
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def neighbour(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_is_refused_until_the_first_is_gone(neighbour, tmp_path):
    with pytest.raises(ValueError, match=r"--output: another process is writing .*/out; wait, stop it"):
        FolderLock.take(tmp_path / "out", patience=0.3)
    neighbour.kill()
    began = time.monotonic()
    folder = OutputFolder.open(tmp_path / "out", "train", {}, {})
    assert time.monotonic() - began < 4
    assert sorted(p.name for p in folder.path.iterdir()) == ["config.json"]


def test_a_killed_process_is_waited_for(neighbour, tmp_path):
    stop = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {neighbour.pid}"])
    FolderLock.take(tmp_path / "out", patience=30)
    stop.wait()


def test_one_process_shares_its_lock_and_lets_go_with_the_last_object(tmp_path):
    one = OutputFolder.open(tmp_path / "out", "train", {}, {})
    other = OutputFolder.open(tmp_path / "out", "train", {}, {})
    assert one == other
    assert one.lock is other.lock
    del one, other
    command = [sys.executable, "-c", HOLD.replace("sleep(60)", "sleep(0)"), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "held\n"


def test_a_folder_that_was_moved_aside_leaves_its_lock_to_the_new_one(tmp_path):
    before = OutputFolder.open(tmp_path / "out", "curate", {"x": 1}, {})
    write_json(before.path / "notes.json", {})
    now = OutputFolder.open(tmp_path / "out", "curate", {"x": 2}, {}, overwrite=True)
    assert now.lock is not before.lock
    assert FolderLock.take(tmp_path / "out") is now.lock
