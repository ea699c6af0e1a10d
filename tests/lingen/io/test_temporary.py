"""Temporary files: removed at the end, or after a kill by the next process; nothing else is."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lingen.io import temporary
from lingen.io.temporary import PREFIX, TemporaryFolder, remove_leftovers, temporary_file

HOLD = """
import sys, time
from pathlib import Path
from lingen.io.temporary import TemporaryFolder, temporary_file

folder = TemporaryFolder()
Path(folder.name, "range").write_text("x")
with temporary_file(".mp4") as file:
    print(folder.name, file.name, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temp(tmp_path, monkeypatch):
    """The system's place for temporary files, for this process and those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def age(*paths):
    for path in paths:
        os.utime(path, (0, time.time() - 2 * temporary.GRACE_S), follow_symlinks=False)


def test_files_and_folders_are_removed_at_the_end(temp):
    folder = TemporaryFolder()
    with temporary_file(".mp4") as file:
        file.write(b"x")
        assert Path(file.name).suffix == ".mp4"
        assert set(temp.iterdir()) == {Path(file.name), Path(folder.name)}
    with pytest.raises(KeyError), temporary_file(folder=folder.name):
        raise KeyError
    assert list(Path(folder.name).iterdir()) == []
    with temporary_file() as file:
        os.rename(file.name, temp / "kept")
    del folder
    gc.collect()
    assert [p.name for p in temp.iterdir()] == ["kept"]


def test_what_a_killed_process_left_is_removed_by_the_next_and_a_living_ones_is_not(temp):
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        try:
            paths = list(map(Path, process.stdout.readline().split()))
            age(*paths)
            remove_leftovers(temp)
            assert all(path.exists() for path in paths), "it is still alive"
        finally:
            process.kill()
    assert all(path.exists() for path in paths)
    remove_leftovers.cache_clear()
    with temporary_file() as file:
        assert list(temp.iterdir()) == [Path(file.name)]


def test_nothing_else_is_touched(temp, monkeypatch):
    ours, young, other, link = (temp / name for name in (f"{PREFIX}a", f"{PREFIX}b", "clip-a", f"{PREFIX}link"))
    elsewhere = temp / PREFIX.replace(temporary.platform.node(), "another-machine")
    for path in (ours, young, other, elsewhere):
        path.write_text("x")
    link.symlink_to(other)
    os.mkfifo(temp / f"{PREFIX}pipe")
    age(ours, other, elsewhere, link, temp / f"{PREFIX}pipe")
    everything = set(temp.iterdir())
    with monkeypatch.context() as stranger:
        stranger.setattr(os, "geteuid", lambda: os.getuid() + 1)
        remove_leftovers(temp)
    assert set(temp.iterdir()) == everything, "another user's"
    remove_leftovers.cache_clear()
    remove_leftovers(temp)
    assert set(temp.iterdir()) == everything - {ours}
