from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.encode.segments import ShardPlan, plan_shards, plan_windows, sample_times
from lingen.data.buckets import Bucket
from lingen.model.stages import STAGES

RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4")


def clip(name="0123456789abcdef-0-9000", seconds=9.0, width=1280, height=720, media="video", start=0.0):
    facts = {
        "clip_id": name,
        "uri": f"/c/{name}",
        "media_type": media,
        "content_hash": name,
        "width": width,
        "height": height,
    }
    facts |= {"start_s": start, "end_s": start + seconds}
    return facts | {"caption": "a cat", "license": "CC0-1.0", "source": "s", "attribution": "a"}


def plan(*clips, **changes):
    options = {"resolution": 64, "frames": [1, 32], "fps": 16.0, "aspect_ratios": RATIOS, "max_upscale": 1.25}
    options |= {"max_windows_per_clip": 10_000}
    return plan_windows(clips, **options | changes)


def test_windows_follow_each_other_at_exact_times():
    found = plan(clip(start=1.5))
    windows = found.windows[Bucket("video", 48, 80, 32)]
    assert [w.start_s for w in windows] == [1.5, 3.5, 5.5, 7.5]
    assert windows[1].times_s == [3.5 + i / 16 for i in range(32)]
    assert (windows[1].provenance.start_s, windows[1].provenance.end_s) == (3.5, 5.5)
    assert [w.key for w in windows] == [f"0123456789abcdef-0-9000_w{i:04d}" for i in range(4)]
    assert found.leftover_s == 1.0
    assert not found.unused


@given(st.floats(0.0, 100), st.sampled_from([12.0, 16.0, 23.976]), st.integers(2, 64), st.floats(0, 50))
def test_no_frame_is_asked_for_beyond_the_span(seconds, fps, frames, start):
    found = plan(clip(seconds=seconds, start=start), frames=[frames], fps=fps)
    windows = [w for ws in found.windows.values() for w in ws]
    assert len(windows) == sample_times(start, start + seconds, fps) // frames
    for w in windows:
        assert start <= w.times_s[0] <= w.times_s[-1] < start + seconds
    left = sample_times(start, start + seconds, fps) / fps - len(windows) * frames / fps
    assert found.leftover_s == pytest.approx(left, abs=1e-6)
    assert sum(found.unused.values()) == (not windows)


def test_long_lengths_are_cut_first_and_shorter_ones_from_what_remains():
    found = plan(clip(seconds=60.0), frames=[272, 544, 1088])
    lengths = Counter(b.frames for b, ws in found.windows.items() for _ in ws)
    assert lengths == {544: 1, 272: 1}  # 60 s = 34 + 17 + 9
    assert found.leftover_s == pytest.approx(9.0)
    starts = sorted(w.start_s for ws in found.windows.values() for w in ws)
    assert starts == [0.0, 34.0]
    assert len({w.key for ws in found.windows.values() for w in ws}) == 2


def test_serve_shorter_gives_every_length_the_whole_clip():
    found = plan(clip(seconds=69.0), frames=[272, 544, 1088], serve_shorter=True)
    lengths = Counter(b.frames for b, ws in found.windows.items() for _ in ws)
    assert lengths == {1088: 1, 544: 2, 272: 4}
    assert found.leftover_s == pytest.approx(1.0)


def test_windows_per_clip_are_bounded_and_the_rest_is_leftover():
    found = plan(clip(seconds=20.0), max_windows_per_clip=3)
    assert sum(map(len, found.windows.values())) == 3
    assert found.leftover_s == pytest.approx(14.0)


def test_images_and_shapes_go_to_their_buckets():
    found = plan(
        clip("a", 0.0, 400, 300, "image"),
        clip("b", 0.0, 300, 300, "image"),
        clip("c", 2.0, 720, 1280),
    )
    names = {w.key[0]: (b.name, w.times_s) for b, ws in found.windows.items() for w in ws}
    assert names["a"] == ("image_48x80", [0.0])
    assert names["b"] == ("image_64x64", [0.0])
    assert names["c"][0] == "video_80x48_32f"


def test_what_gives_no_sample_is_counted_with_its_reason():
    found = plan(
        clip("short", 1.0),
        clip("small", 9.0, 40, 30),
        clip("twice", 9.0),
        clip("twice", 9.0),
        clip("picture", 0.0, media="image"),
        frames=[32],
    )
    assert dict(found.unused) == {
        "shorter than 2 s": 1,
        "smaller than 48x80 allows": 1,
        "duplicate clip_id": 1,
        "no image bucket asked for": 1,
    }


def test_shards_are_fixed_by_the_clips_alone():
    clips = [clip(f"{i * 2654435761 % 2**32:08x}", 9.0) for i in range(30)]
    bucket = Bucket("video", 48, 80, 32)
    plans = []
    for order in (clips, clips[::-1]):
        windows = plan(*order).windows[bucket]
        plans.append(plan_shards(bucket, windows, latent_shape=bucket.latent_shape(), dtype="float16", shard_mb=0.1))
    assert plans[0] == plans[1]
    keys = [w.key for shard in plans[0] for w in shard.windows]
    assert keys == sorted(keys)
    assert len(keys) == 120
    sizes = [len(s.windows) for s in plans[0]]
    assert sizes[:-1] == [9] * (len(sizes) - 1)  # 16*4*6*10*2 bytes and what goes with it
    assert ShardPlan.from_json(plans[0][3].to_json()) == plans[0][3]


def test_the_papers_stages_have_their_buckets():
    from data_prep.encode.job import EncodeConfig
    from lingen.data.buckets import bucket_set

    config = EncodeConfig(curated=".", output=".", tae=".", stages=tuple(s.name for s in STAGES))
    assert config.groups() == {256: {1, 272}, 512: {1, 272, 544, 1088}}
    for stage in STAGES:
        media = "image" if stage.frames == 1 else "video"
        sets = [bucket_set(r, RATIOS, sorted(f)) for r, f in config.groups().items()]
        assert Bucket(media, stage.height, stage.width, stage.frames) in [b for s in sets for b in s]
