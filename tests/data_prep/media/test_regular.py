import os
import socket

import pytest

from data_prep.media import regular
from data_prep.media.errors import MediaError
from data_prep.media.regular import is_regular, open_regular, regular_file


def reason(path, **options):
    with pytest.raises(MediaError) as error:
        regular_file(path, **options)
    assert not is_regular(path) or options
    return error.value.reason


def test_what_may_never_end_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        for path in (tmp_path / "pipe.tar", tmp_path / "s", tmp_path, "/dev/zero", "/proc/self/maps", "/proc/kmsg"):
            assert reason(path) == "not_a_file"
    (tmp_path / "link.mp4").symlink_to("/proc/self/maps")
    assert reason(tmp_path / "link.mp4") == "not_a_file"


def test_ordinary_files_are_accepted_up_to_the_limit(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x" * 100)
    assert regular_file(path) == str(path)
    assert regular_file(str(path), max_bytes=100) == str(path)
    assert reason(path, max_bytes=99) == "too_large"
    os.truncate(path, 2 << 40)  # holes: no disk is used
    assert reason(path, max_bytes=20 << 30) == "too_large"


def test_what_is_exchanged_after_the_first_look_is_seen_once_it_is_open(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.mp4")
    looked = os.stat(tmp_path / "a.mp4")
    monkeypatch.setattr(regular.os, "stat", lambda path: looked)
    assert open_regular(tmp_path / "a.mp4").read() == b"x"
    assert reason(tmp_path / "pipe.mp4") == "not_a_file"  # and does not wait for a writer


def test_what_is_not_there_is_said_to_be_missing(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "no.mp4", tmp_path / "a", tmp_path / ("x" * 300), tmp_path / "nul\0"):
        assert reason(path) == "file_missing"


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read_are_told_apart(tmp_path):
    path = tmp_path / "a.mp4"
    path.touch(mode=0)
    assert reason(path) == "not_readable"
