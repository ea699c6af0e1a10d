import os
import threading

import fsspec
import pytest

from lingen.io.byte_ranges import ByteRanges, Scratch
from lingen.io.temporary import PREFIX, remove_leftovers


@pytest.fixture
def remote():
    """A folder of fsspec's in-memory file system."""
    fs = fsspec.filesystem("memory")
    fs.rm("/bucket", recursive=True) if fs.exists("/bucket") else None
    fs.pipe("/bucket/a/0.tar", bytes(range(256)) * 40)
    return fs


def test_remote_ranges_are_cached_and_the_cache_is_bounded(remote, tmp_path):
    files = ByteRanges.open("memory://bucket", tmp_path, cache_gb=1000e-9)
    expected = bytes(range(256)) * 40
    for _ in range(3):
        for offset in range(0, 4000, 100):
            assert files.read("a/0.tar", offset, 100, Scratch()) == expected[offset : offset + 100]
            assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) <= 1000
    remote.rm("/bucket/a/0.tar")
    assert files.read("a/0.tar", 3900, 100, Scratch()) == expected[3900:4000]  # still cached
    again = ByteRanges.open("memory://bucket", tmp_path, cache_gb=1000e-9)
    assert again.read("a/0.tar", 3900, 100, Scratch()) == expected[3900:4000]  # found again after a restart
    with pytest.raises(FileNotFoundError, match=r"a/0.tar is missing"):
        again.read("a/0.tar", 0, 100, Scratch())


def test_a_damaged_cache_entry_is_fetched_again(remote, tmp_path):
    files = ByteRanges.open("memory://bucket", tmp_path)
    good = bytes(files.read("a/0.tar", 0, 64, Scratch()))
    (entry,) = (p for p in tmp_path.rglob("*") if p.is_file())
    entry.write_bytes(b"x" * 64)
    assert files.read("a/0.tar", 0, 64, Scratch(), accept=lambda data: data == good) == good
    assert entry.read_bytes() == good


@pytest.mark.parametrize("own", [True, False])
def test_what_a_killed_process_left_is_removed_at_the_next_start(remote, tmp_path, monkeypatch, own):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = ByteRanges.open("memory://bucket", None if own else tmp_path)
    files.read("a/0.tar", 0, 64, Scratch())
    (entry,) = (p for p in tmp_path.rglob("*") if p.is_file())
    left = (tmp_path if own else entry.parent) / f"{PREFIX}left"
    left.write_text("half a range")
    os.utime(left, (0, 0))
    remove_leftovers.cache_clear()
    again = ByteRanges.open("memory://bucket", None if own else tmp_path)
    assert not left.exists()
    assert entry.exists(), "of a reader that is in use"
    assert again._used == (0 if own else 64)


def test_many_threads_share_few_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr("lingen.io.byte_ranges.MAX_OPEN_FILES", 2)
    for i in range(8):
        (tmp_path / f"{i}").write_bytes(bytes([i]) * 1000)
    files = ByteRanges.open(tmp_path)
    wrong = []

    def read(offset):
        scratch = Scratch()
        for turn in range(400):
            name = (turn * 7 + offset) % 8
            if files.read(str(name), offset, 10, scratch) != bytes([name]) * 10:
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "0.tar")
    with pytest.raises(FileNotFoundError, match=r"0\.tar is not a file"):
        ByteRanges.open(tmp_path).read("0.tar", 0, 10, Scratch())
