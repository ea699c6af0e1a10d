import dataclasses
import re

import numpy as np
import pytest

from data_prep.encode import pixels
from data_prep.encode.pixels import PixelConfig, write_pixels
from data_prep.media.errors import IN_A_ROW, MediaError, OurBug
from lingen.io.manifest import read_json

CONFIG = PixelConfig(resolution=64, frames=32, windows_per_clip=2, held_out=0.3)


@pytest.fixture
def clips(make_clip):
    """Eight sources of one video and one photograph each; the video of the last cannot be read."""
    rows = []
    for i in range(8):
        rows.append(make_clip(f"{i:016x}-0-5000", 5.0) | {"source": f"source {i}"})
        rows.append(make_clip(f"{i + 100:016x}-0-0", 0.0, media="image") | {"source": f"source {i}"})
    return rows


@pytest.fixture
def read(monkeypatch):
    """The keys that were decoded; frames are filled with the segment's start."""
    keys = []

    def read_segments(segments, num_cpus, timeout_s):
        for s in segments:
            keys.append(s.key)
            if s.provenance.source == "source 7" and s.bucket.startswith("video"):
                yield s, MediaError("truncated", "cut off")
            else:
                yield s, np.full((len(s.times_s), 48, 80, 3), int(s.start_s), np.uint8)

    monkeypatch.setattr(pixels, "read_segments", read_segments)
    return keys


def test_every_segment_is_a_file_or_an_error(clips, read, tmp_path):
    segments, errors = write_pixels(clips, tmp_path, CONFIG)
    assert len(segments) == 7 * 2 + 8
    assert [(e["clip_id"], e["reason"]) for e in errors] == [(clips[-2]["clip_id"], "truncated")] * 2
    for segment in segments:
        frames = segment.read(tmp_path)
        assert frames.shape == ((32, 48, 80, 3) if segment.media == "video" else (1, 48, 80, 3))
        assert (frames == (2 if segment.key.endswith("w0001") else 0)).all()
    assert {w["key"] for w in read_json(tmp_path / "index.json")["windows"]} == {s.key for s in segments}


def test_whole_sources_are_held_out_and_stay_so_when_clips_are_added(clips, read, tmp_path):
    segments, _ = write_pixels(clips, tmp_path / "all", CONFIG)
    sides = {}
    for segment in segments:
        sides.setdefault(segment.source, set()).add(segment.held_out)
    assert all(len(side) == 1 for side in sides.values())
    held_out = {source for source, side in sides.items() if True in side}
    assert len(held_out) == round(0.3 * 7)  # of the sources with videos
    fewer, _ = write_pixels([c for c in clips if c["source"] in held_out | {"source 0"}], tmp_path / "few", CONFIG)
    assert {s.source for s in fewer if s.held_out} <= held_out


def test_an_interrupted_run_decodes_what_is_missing_and_a_finished_one_nothing(clips, read, tmp_path):
    expected = write_pixels(clips, tmp_path, CONFIG)
    read.clear()
    assert write_pixels(clips, tmp_path, CONFIG) == expected
    assert read == []
    (tmp_path / "index.json").unlink()
    lost = expected[0][3].key
    (tmp_path / f"{lost}.npy").unlink()
    assert write_pixels(clips, tmp_path, CONFIG)[0] == expected[0]
    assert lost in read
    assert not {s.key for s in expected[0]} - {lost} & set(read)


def test_a_limit_reads_some_of_the_clips_and_a_higher_one_these_too(clips, read, tmp_path):
    found = []
    for limit in (5, 10, 16):
        read.clear()
        write_pixels(
            clips[::-1] if limit == 10 else clips, tmp_path / str(limit), dataclasses.replace(CONFIG, clips=limit)
        )
        found.append({key.rpartition("_w")[0] for key in read})
        assert len(found[-1]) == limit
    assert found[0] < found[1] < found[2] == {clip["clip_id"] for clip in clips}
    sources = [clip["source"] for clip in clips if clip["clip_id"] in found[0]]
    assert len(set(sources)) == 3, "two whole sources and a half"


def test_a_folder_of_all_clips_has_the_key_that_it_had_before_there_was_a_limit():
    assert "clips" not in CONFIG.content()
    assert dataclasses.replace(CONFIG, clips=6).content() == CONFIG.content() | {"clips": 6}


def test_settings_and_clips_that_give_nothing_are_refused(make_clip, tmp_path):
    with pytest.raises(ValueError, match=re.escape("--pixels.held-out: must be between 0 and 1, got 1.0")):
        PixelConfig(held_out=1.0)
    with pytest.raises(ValueError, match=re.escape("--pixels.frames: a video segment needs at least 2 frames")):
        PixelConfig(frames=1)
    with pytest.raises(ValueError, match=re.escape("--pixels.clips: must not be negative, got -1")):
        PixelConfig(clips=-1)
    message = "--curated: no clip yields a segment of 32 frames at 64p (1 shorter than 2 s); change --pixels.frames"
    with pytest.raises(ValueError, match=re.escape(message)):
        write_pixels([make_clip("a", 1.0)], tmp_path, CONFIG)


def test_clips_of_which_none_can_be_read_are_refused(clips, monkeypatch, tmp_path):
    def read_segments(segments, num_cpus, timeout_s):
        for s in segments:
            yield s, MediaError("truncated", "cut off")

    monkeypatch.setattr(pixels, "read_segments", read_segments)
    message = "--curated: none of 24 segments could be read, the first because of truncated: cut off"
    with pytest.raises(ValueError, match=message):
        write_pixels(clips, tmp_path, CONFIG)
    assert not (tmp_path / "index.json").exists()


def test_internal_errors_are_rows_but_many_in_a_row_are_our_bug(make_clip, monkeypatch, tmp_path):
    broken = set(range(3, 3 + IN_A_ROW - 1))

    def read_segments(segments, num_cpus, timeout_s):
        for s in segments:
            error = MediaError("internal_error", "KeyError: 0 (probe.py:7)")
            bad = int(s.content_hash[:16], 16) in broken
            yield s, error if bad else np.zeros((len(s.times_s), 48, 80, 3), np.uint8)

    monkeypatch.setattr(pixels, "read_segments", read_segments)
    clips = [make_clip(f"{i:016x}-0-5000", 5.0) for i in range(30)]
    segments, errors = write_pixels(clips, tmp_path / "a", CONFIG)
    assert (len(segments), len(errors)) == (2 * 11, 2 * (IN_A_ROW - 1))
    assert errors[0]["detail"].startswith("KeyError: 0 (probe.py:7); replay: python -m data_prep.encode.replay frames")
    broken.add(IN_A_ROW + 2)
    with pytest.raises(OurBug, match="20 different files in a row"):
        write_pixels(clips, tmp_path / "b", CONFIG)
