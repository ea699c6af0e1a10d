"""Reading segments: how they are grouped, what a failing process costs, and the same on real clips with real Ray."""

import contextlib
import csv
import threading

import psutil
import pytest

from data_prep.encode import segment_frames
from data_prep.encode.segment_frames import error_row, is_long, read_segments
from data_prep.media.errors import MediaError
from data_prep.media.fetch import content_hash
from data_prep.media.probe import probe


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
    errors = []
    found = list(read_segments(real, errors, num_cpus=0.5, timeout_s=1e-3))
    assert [s for s, _ in found] == real
    assert {e["reason"] for e in errors} == {"decode_timeout"}
    assert [e["key"] for e in errors] == [s.key for s in real]


@pytest.mark.slow
def test_a_decoder_that_dies_again_and_again_costs_its_segments_only(real, ray_cluster):
    errors, stop = [], threading.Event()

    def kill_readers():
        while not stop.is_set():
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.cmdline()[:1] == ["ray::_read"]:
                        process.kill()

    killer = threading.Thread(target=kill_readers)
    killer.start()
    found = read_segments(real, errors, num_cpus=0.5, timeout_s=60)
    first = next(found)
    stop.set()
    killer.join()
    rest = list(found)
    assert first == (real[0], None)
    assert {e["reason"] for e in errors} == {"decoder_crashed"}
    assert rest[-1][1] is not None
    assert [s for s, _ in rest] == real[1:]
