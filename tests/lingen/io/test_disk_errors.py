"""What the disk refuses, in one line."""

import errno
import os

import pytest

from lingen.io.disk_errors import explain


def disk_error(code, path=None):
    return OSError(code, os.strerror(code), *([] if path is None else [str(path)]))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EPERM])
def test_a_place_that_cannot_be_written_is_bad_configuration(tmp_path, code):
    output = tmp_path / "out"
    for path in (output, output / "clips.parquet", tmp_path):  # itself, inside, and the folder it would be made in
        line, exit_code = explain(disk_error(code, path), output)
        assert exit_code == 2
        assert line.startswith(f"--output: {path}: {os.strerror(code)}; choose another")


def test_another_path_is_named_without_blaming_the_output(tmp_path):
    error = disk_error(errno.EACCES, tmp_path / "in" / "list.csv")
    assert explain(error, tmp_path / "out") == (f"{tmp_path}/in/list.csv: Permission denied", 2)
    assert explain(error) == (f"{tmp_path}/in/list.csv: Permission denied", 2)


def test_pyarrow_names_the_path_in_its_message(tmp_path):
    error = OSError(errno.EROFS, f"Failed to open local file '{tmp_path}/out/a'. Detail: Read-only file system")
    line, code = explain(error, tmp_path / "out")
    assert (line.startswith("--output: [Errno 30] Failed to open local file"), code) == (True, 2)


class FromWorker(OSError):
    """Like Ray's errors: of the kind of their cause, with none of its fields."""

    def __init__(self, cause):
        super().__init__()
        self.cause = cause


def wrapped(error):
    try:
        raise RuntimeError("a worker failed") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize("wrap", [FromWorker, wrapped, lambda e: wrapped(FromWorker(e))])
def test_what_a_worker_met_is_found_in_what_arrives(tmp_path, wrap):
    error = wrap(disk_error(errno.EROFS, tmp_path / "out" / "latents"))
    assert explain(error, tmp_path / "out")[0].startswith(f"--output: {tmp_path}/out/latents: Read-only file system")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (disk_error(errno.ENOSPC), "/o: [Errno 28] No space left on device"),
        (disk_error(errno.ENOSPC, "/o/a.mp4"), "[Errno 28] No space left on device: '/o/a.mp4'"),
        (disk_error(errno.EDQUOT), "/o: [Errno 122] Disk quota exceeded"),
        (Exception("No space left on device (os error 28)"), "/o: No space left on device (os error 28)"),
        (RuntimeError("training failed:\n  File x\n CheckpointFailed: in /o: the disk is full: 1 MiB\nmore"), None),
    ],
)  # fmt: skip
def test_a_full_disk_is_a_failure_that_can_be_repeated(error, line):
    found, code = explain(error, "/o")
    assert code == 1
    assert (
        found
        == (line or "CheckpointFailed: in /o: the disk is full: 1 MiB") + "; make room, and the same command continues"
    )


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
        PermissionError(errno.EACCES, "Permission denied"),  # of a socket, perhaps: nothing to name
        RuntimeError("a bug"),
        KeyError("x"),
    ],
)
def test_anything_else_keeps_its_traceback(error):
    assert explain(error, "/o") is None


def test_errors_that_cause_each_other_end():
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert explain(first, "/o") is None
