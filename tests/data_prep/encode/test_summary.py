import dataclasses
import math

import pytest

from data_prep.encode.layout import BucketLayout, split_into_shards
from data_prep.encode.summary import (
    BucketSummary,
    EncodeSummary,
    StageSummary,
    canary_alarms,
    caption_warnings,
    stage_warnings,
    summarize_stages,
)
from lingen.data.buckets import Bucket
from lingen.model.stages import ALL_STAGES
from pipelines.cli import table


@pytest.fixture
def bucket():
    rows = [
        {"clip_id": "a", "shard": "000000.tar", "seconds": 2.0, "size": 10, "key": "a_w0000", "canary_psnr": 30.0},
        {"clip_id": "a", "shard": "000000.tar", "seconds": 2.0, "size": 10, "key": "a_w0001", "canary_psnr": None},
        {"clip_id": "b", "shard": "000001.tar", "seconds": 2.0, "size": 10, "key": "b_w0000", "canary_psnr": 34.0},
    ]
    return BucketSummary.from_rows("video_48x80_32f", 64, rows)


def test_a_bucket_counts_clips_samples_seconds_shards_and_bytes(bucket):
    assert (bucket.clips, bucket.samples, bucket.seconds, bucket.shards, bucket.bytes) == (2, 3, 6.0, 2, 30)
    assert bucket.canaries == (("a_w0000", 30.0), ("b_w0000", 34.0))
    assert bucket.psnr == 32.0
    assert math.isnan(dataclasses.replace(bucket, canaries=()).psnr)


def test_a_layout_promises_what_its_segments_will_give(make_clip, cut):
    bucket = Bucket("video", 48, 80, 32)
    segments = cut(make_clip("a", 9.0), make_clip("b", 2.0)).segments[bucket]
    shards = split_into_shards(bucket, segments, (16, 4, 6, 10), "float16", shard_mb=0.03)
    promised = BucketSummary.from_layout(BucketLayout(64, shards))
    assert (promised.clips, promised.samples, promised.seconds, promised.shards) == (2, 5, 10.0, 3)


def test_a_finished_folder_gives_its_summary_back(encoded):
    summary = EncodeSummary.from_folder(encoded)
    assert summary.samples == 15
    assert [b.name for b in summary.buckets] == ["image_64x64", "video_48x80_17f"]
    assert [(s.name, s.samples) for s in summary.stages] == [("images at 64p", 9), ("videos of 17 frames at 64p", 6)]
    numbers = summary.numbers()
    assert (numbers["samples"], numbers["errors"], numbers["shards"]) == (15, 2, 5)
    assert "canary_psnr_median" not in numbers
    assert [row[3][-2:] for row in summary.rows()] == [" s", " s"]
    assert "video_48x80_17f" in table(summary.rows(), ("bucket", "clips", "samples", "hours", "shards", "MB", "PSNR"))


def test_stages_get_the_buckets_of_their_resolution_and_length(bucket):
    name = "t2v_256p_17s"
    stage = ALL_STAGES[name]
    own = dataclasses.replace(bucket, name=f"video_192x352_{stage.frames}f", resolution=256, samples=stage.batch)
    found = summarize_stages([name], {256: {1, stage.frames}}, [own, bucket])
    assert [s.name for s in found] == [name, "images at 256p"]
    assert (found[0].samples, found[0].hours) == (stage.batch, 6 / 3600)
    assert found[0].passes == stage.steps
    assert found[1].samples == 0
    assert math.isnan(found[1].passes)


def test_quality_tuning_counts_by_its_length_alone(bucket):
    name = next(stage.name for stage in ALL_STAGES.values() if stage.quality_clips)
    (found,) = summarize_stages([name], {64: {32}}, [bucket])
    assert (found.name, found.steps, found.samples) == ("videos of 32 frames at 64p", 0, 3)


def test_stages_with_less_than_a_batch_are_warned_of():
    stages = [
        StageSummary(name="short", resolution=256, frames=272, batch=8, samples=5),
        StageSummary(name="long", resolution=256, frames=544, batch=8),
        StageSummary(name="enough", resolution=512, frames=272, batch=8, samples=8),
    ]
    assert stage_warnings(stages, serve_shorter=True) == [
        "short: 5 samples are less than one batch of 8",
        "long: no sample",
    ]
    assert stage_warnings(stages, serve_shorter=False)[0].endswith("; --serve-shorter cuts long clips for it too")


def test_samples_without_a_caption_are_counted_in_one_warning(make_clip, cut):
    def laid_out(*captions):
        clips = (make_clip(str(i), 2.0) | {"caption": caption} for i, caption in enumerate(captions))
        bucket = Bucket("video", 48, 80, 32)
        shards = split_into_shards(bucket, cut(*clips).segments[bucket], (16, 4, 6, 10), "float16", shard_mb=0.03)
        return [BucketLayout(64, shards)]

    (warning,) = caption_warnings(laid_out("", "  ", "words"))
    assert warning.startswith("2 of 3 samples have no caption")
    assert caption_warnings(laid_out("words", "words")) == []


def test_canaries_far_below_the_others_ring_the_alarm(bucket):
    assert not canary_alarms(0.0, [bucket])
    other = dataclasses.replace(bucket, name="video_64x64_32f")
    alarms = canary_alarms(99.0, [bucket, other])
    assert [alarm.partition(":")[0] for alarm in alarms] == [bucket.name, other.name]
    assert "2 of 2 canaries decode badly (under 99.0 dB)" in alarms[0]
    good = dataclasses.replace(bucket, canaries=(("a", 30.0), ("b", 31.0), ("c", 19.0), ("d", 32.0)))
    assert canary_alarms(15.0, [good]) == [
        f"{good.name}: 1 of 4 canaries decode badly (under 20.5 dB), c for one; look with jobs/show.py"
    ]
