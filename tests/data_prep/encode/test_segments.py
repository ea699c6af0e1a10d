"""Cutting clips into segments: exact times, nothing beyond the span, every clip accounted for."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.encode.segments import COLUMNS, count_sample_times, read_clips
from lingen.data.buckets import Bucket


def test_segments_follow_each_other_at_exact_times(make_clip, cut):
    found = cut(make_clip(start=1.5))
    segments = found.segments[Bucket("video", 48, 80, 32)]
    assert [s.start_s for s in segments] == [1.5, 3.5, 5.5, 7.5]
    assert segments[1].times_s == [3.5 + i / 16 for i in range(32)]
    assert (segments[1].provenance.start_s, segments[1].provenance.end_s) == (3.5, 5.5)
    assert [s.key for s in segments] == [f"0123456789abcdef-0-9000_w{i:04d}" for i in range(4)]
    assert found.leftover_s == 1.0
    assert not found.unused


@given(st.floats(0.0, 100), st.sampled_from([12.0, 16.0, 23.976]), st.integers(2, 64), st.floats(0, 50))
def test_no_frame_is_asked_for_beyond_the_span(make_clip, cut, seconds, fps, frames, start):
    found = cut(make_clip(seconds=seconds, start=start), frames=[frames], fps=fps)
    segments = [s for of_bucket in found.segments.values() for s in of_bucket]
    assert len(segments) == count_sample_times(start, start + seconds, fps) // frames
    for s in segments:
        assert start <= s.times_s[0] <= s.times_s[-1] < start + seconds
    left = count_sample_times(start, start + seconds, fps) / fps - len(segments) * frames / fps
    assert found.leftover_s == pytest.approx(left, abs=1e-6)
    assert sum(found.unused.values()) == (not segments)


def test_long_lengths_are_cut_first_and_shorter_ones_from_what_remains(make_clip, cut):
    found = cut(make_clip(seconds=60.0), frames=[272, 544, 1088])
    lengths = Counter(b.frames for b, of_bucket in found.segments.items() for _ in of_bucket)
    assert lengths == {544: 1, 272: 1}  # 60 s = 34 + 17 + 9
    assert found.leftover_s == pytest.approx(9.0)
    starts = sorted(s.start_s for of_bucket in found.segments.values() for s in of_bucket)
    assert starts == [0.0, 34.0]
    assert len({s.key for of_bucket in found.segments.values() for s in of_bucket}) == 2


def test_serve_shorter_gives_every_length_the_whole_clip(make_clip, cut):
    found = cut(make_clip(seconds=69.0), frames=[272, 544, 1088], serve_shorter=True)
    lengths = Counter(b.frames for b, of_bucket in found.segments.items() for _ in of_bucket)
    assert lengths == {1088: 1, 544: 2, 272: 4}
    assert found.leftover_s == pytest.approx(1.0)


def test_segments_per_clip_are_bounded_and_the_rest_is_leftover(make_clip, cut):
    found = cut(make_clip(seconds=20.0), max_per_clip=3)
    assert sum(map(len, found.segments.values())) == 3
    assert found.leftover_s == pytest.approx(14.0)


def test_images_and_shapes_go_to_their_buckets(make_clip, cut):
    found = cut(
        make_clip("a", 0.0, 400, 300, "image"),
        make_clip("b", 0.0, 300, 300, "image"),
        make_clip("c", 2.0, 720, 1280),
    )
    names = {s.key[0]: (b.name, s.times_s) for b, of_bucket in found.segments.items() for s in of_bucket}
    assert names["a"] == ("image_48x80", [0.0])
    assert names["b"] == ("image_64x64", [0.0])
    assert names["c"][0] == "video_80x48_32f"


def test_what_gives_no_sample_is_counted_with_its_reason(make_clip, cut):
    found = cut(
        make_clip("short", 1.0),
        make_clip("small", 9.0, 40, 30),
        make_clip("twice", 9.0),
        make_clip("twice", 9.0),
        make_clip("picture", 0.0, media="image"),
        frames=[32],
    )
    assert dict(found.unused) == {
        "shorter than 2 s": 1,
        "smaller than 48x80 allows": 1,
        "duplicate clip_id": 1,
        "no image bucket asked for": 1,
    }


def test_rows_of_clips_have_the_columns_of_encoding_and_a_missing_one_is_named(make_clip, tmp_path):
    path = tmp_path / "clips.parquet"
    with pytest.raises(ValueError, match=r"--curated: .*clips.parquet is missing"):
        read_clips(path)
    pq.write_table(pa.Table.from_pylist([make_clip("a") | {"score": 1.0}, make_clip("b")]), path)
    assert [list(row) for row in read_clips(path)] == [COLUMNS] * 2
    pq.write_table(pq.read_table(path).drop_columns(["caption", "uri"]), path)
    with pytest.raises(ValueError, match=r"--curated: .* has no column caption, uri; run jobs/curate.py again"):
        read_clips(path)
