"""Reading segments: how they are grouped, what a failing process costs, and the same on real clips with real Ray."""

import contextlib
import csv
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from data_prep.encode import segment_frames
from data_prep.encode.error_table import error_row
from data_prep.encode.segment_frames import is_long, read_segments
from data_prep.media.errors import MediaError
from data_prep.media.fetch import content_hash
from data_prep.media.probe import probe

ROOT = Path(__file__).parents[3]


@pytest.fixture
def six(make_clip, cut):
    """Three segments of each of two clips, in their order."""
    found = cut(make_clip("a", 6.0), make_clip("b", 6.0)).segments.values()
    return [s for of_bucket in found for s in of_bucket]


def test_segments_of_one_clip_are_read_together_as_far_as_memory_goes(six, monkeypatch):
    assert [[s.key[0] for s in group] for group in segment_frames._groups(six)] == [["a"] * 3, ["b"] * 3]
    monkeypatch.setattr(segment_frames, "GROUP_BYTES", 2.5 * 3 * 32 * 48 * 80)
    assert [len(group) for group in segment_frames._groups(six)] == [2, 1, 2, 1]
    assert not is_long(six[0].bucket)
    monkeypatch.setattr(segment_frames, "GROUP_BYTES", 1)
    assert [len(group) for group in segment_frames._groups(six)] == [1] * 6
    assert is_long(six[0].bucket)


def test_reading_processes_import_nothing_heavy():
    code = "import sys, data_prep.encode.segment_frames; print({'torch', 'pyarrow', 'pandas'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "set()\n"


def test_a_process_that_dies_costs_only_the_segment_that_kills_it(six, monkeypatch):
    """Tasks are lists of segments here, and their result the keys."""
    deadly, waited = six[1], []

    def result(task, timeout_s):
        waited.append((len(task), timeout_s))
        if deadly in task:
            raise MediaError("decoder_crashed", "the reading process ended")
        return [s.key for s in task]

    monkeypatch.setattr(segment_frames, "_result", result)
    found = segment_frames._frames_of(six[:3], six[:3], lambda group: group, 10.0)
    assert [found[0], found[2]] == [six[0].key, six[2].key]
    assert error_row(deadly, found[1]) == {
        "key": deadly.key,
        "clip_id": "a",
        "uri": "/c/a",
        "bucket": "video_48x80_32f",
        "reason": "decoder_crashed",
        "detail": "the reading process ended",
    }
    assert waited == [(3, 30.0), (1, 10.0), (1, 10.0), (1, 10.0)]


@pytest.mark.parametrize(
    ("raised", "reason", "detail"),
    [
        (ray.exceptions.WorkerCrashedError(), "decoder_crashed", "the reading process ended"),
        (ray.exceptions.OutOfMemoryError("95%"), "out_of_memory", "was killed for memory; a larger --decode-cpus"),
        (ray.exceptions.ObjectLostError("0" * 28, None, ""), "internal_error", "ObjectLostError: "),
        (ray.exceptions.NodeDiedError("gone"), "internal_error", "NodeDiedError: "),
        (ray.exceptions.RayTaskError("_read", "trace", TypeError("x")), "internal_error", "RayTaskError: "),
        (TypeError("unpicklable"), "internal_error", "TypeError: unpicklable ("),
    ],
)
def test_whatever_becomes_of_a_reading_task_is_an_error_of_its_segment(six, monkeypatch, raised, reason, detail):
    def get(ref):
        raise raised

    monkeypatch.setattr(segment_frames.ray, "wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr(segment_frames.ray, "get", get)
    found = segment_frames._frames_of(six[:2], "ref", lambda group: "ref", 10.0)
    assert [error.reason for error in found] == [reason] * 2
    assert detail in found[0].detail


@pytest.fixture
def here(monkeypatch):
    """here(times, error): the file is found, and reading frames at these times raises the error."""

    def make(raised):
        @contextlib.contextmanager
        def local_copy(uri):
            if "fetch" in raised:
                raise raised["fetch"]
            yield "path"

        def read_frames(path, times_s, size, threads, known):
            if times_s[0] in raised:
                raise raised[times_s[0]]
            return np.zeros((len(times_s), *size, 3), np.uint8)

        def read_in_pieces(path, times_s, size, length, known, threads):
            yield read_frames(path, times_s[:length], size, threads, known)
            raise raised["second piece"]

        monkeypatch.setattr("data_prep.media.fetch.local_copy", local_copy)
        monkeypatch.setattr("data_prep.media.fetch.content_hash", lambda path: raised.get("hash", "a"))
        monkeypatch.setattr("data_prep.media.probe.probe", lambda path: raised.get("probe"))
        monkeypatch.setattr("data_prep.media.frames.read_frames", read_frames)
        monkeypatch.setattr("data_prep.media.frames.read_frames_in_pieces", read_in_pieces)

    return make


def test_what_reading_raises_is_an_error_of_the_segment_that_raised_it(six, here):
    here({2.0: struct.error("unpack requires 4 bytes")})
    found = segment_frames._read._function(six[:3])
    assert [type(frames) for frames in found] == [np.ndarray, MediaError, np.ndarray]
    assert found[1].reason == "internal_error"
    assert found[1].detail.startswith("error: unpack requires 4 bytes (")
    here({0.0: MemoryError(), 2.0: MediaError("undecodable", "no frame")})
    found = segment_frames._read._function(six[:3])
    assert [getattr(frames, "reason", None) for frames in found] == ["out_of_memory", "undecodable", None]


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        ({"fetch": AttributeError("codec_context")}, "internal_error"),
        ({"fetch": MediaError("file_missing", "gone")}, "file_missing"),
        ({"fetch": OSError("input/output error")}, "fetch_failed"),
        ({"hash": "b"}, "content_changed"),
    ],
)
def test_what_opening_a_file_raises_is_an_error_of_all_its_segments(six, here, raised, reason):
    here(raised)
    assert [error.reason for error in segment_frames._read._function(six[:3])] == [reason] * 3
    (error,) = segment_frames._read_in_pieces._function(six[0], 8)
    assert error.reason == reason


def test_what_reading_in_pieces_raises_comes_after_the_pieces(six, here):
    here({"second piece": ValueError("an enum that PyAV does not know")})
    piece, error = segment_frames._read_in_pieces._function(six[0], 8)
    assert piece.shape == (8, 48, 80, 3)
    assert error.reason == "internal_error"
    assert error.detail.startswith("ValueError: an enum that PyAV does not know (")


@pytest.fixture(scope="module")
def real(clips, cut):
    """Segments of two real videos."""
    rows = []
    for listed in [m for m in csv.DictReader((clips / "manifest.csv").open()) if m["media_type"] == "video"][:2]:
        path = clips / listed["uri"]
        about, digest = probe(path), content_hash(str(path))
        facts = {"clip_id": digest, "uri": str(path), "content_hash": digest, "media_type": "video"}
        facts |= {"start_s": 0.0, "end_s": about.duration_s, "width": about.width, "height": about.height}
        rows.append(listed | facts)
    layout = cut(*rows, resolution=32, frames=[17], max_per_clip=4)
    return [s for of_bucket in layout.segments.values() for s in of_bucket]


@pytest.mark.slow
def test_frames_that_take_too_long_are_rows(real, ray_cluster):
    found = list(read_segments(real, num_cpus=0.5, timeout_s=1e-3))
    assert [s for s, _ in found] == real
    assert {error.reason for _, error in found} == {"decode_timeout"}


@pytest.mark.slow
def test_a_decoder_that_dies_again_and_again_costs_its_segments_only(real, ray_cluster):
    stop = threading.Event()

    def kill_readers():
        while not stop.is_set():
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.cmdline()[:1] == ["ray::_read"]:
                        process.kill()

    killer = threading.Thread(target=kill_readers)
    killer.start()
    found = read_segments(real, num_cpus=0.5, timeout_s=60)
    first = next(found)
    stop.set()
    killer.join()
    rest = list(found)
    assert first[0] == real[0]
    assert {f.reason for _, f in [first, *rest] if isinstance(f, MediaError)} == {"decoder_crashed"}
    assert isinstance(first[1], MediaError)
    assert len(rest[-1][1]) == 17
    assert [s for s, _ in rest] == real[1:]
