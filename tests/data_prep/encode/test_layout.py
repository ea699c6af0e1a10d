import re
from collections import Counter

import pytest

from data_prep.encode.config import EncodeConfig
from data_prep.encode.layout import MEMBER_OVERHEAD, ShardLayout, lay_out, split_into_shards
from lingen.data.buckets import Bucket


def lay_out_clips(*clips, **changes):
    settings = {"curated": "CURATED", "output": ".", "tae": ".", "resolution": 64, "frames": (32,)}
    return lay_out(EncodeConfig(**settings | changes), list(clips), lambda *size: (16, 4, 6, 10))


def test_shards_are_fixed_by_the_clips_alone(make_clip, cut):
    clips = [make_clip(f"{i * 2654435761 % 2**32:08x}", 9.0) for i in range(30)]
    bucket = Bucket("video", 48, 80, 32)
    layouts = []
    for order in (clips, clips[::-1]):
        segments = cut(*order).segments[bucket]
        shape = bucket.latent_shape()
        layouts.append(split_into_shards(bucket, segments, latent_shape=shape, dtype="float16", shard_mb=0.1))
    assert layouts[0] == layouts[1]
    keys = [s.key for shard in layouts[0] for s in shard.segments]
    assert keys == sorted(keys)
    assert len(keys) == 120
    sizes = [len(s.segments) for s in layouts[0]]
    assert sizes[:-1] == [9] * (len(sizes) - 1)  # 16*4*6*10*2 bytes and what goes with it
    assert ShardLayout.from_json(layouts[0][3].to_json()) == layouts[0][3]


def test_a_sample_larger_than_a_shard_has_a_shard_alone(make_clip, cut):
    bucket = Bucket("video", 48, 80, 32)
    segments = cut(make_clip(seconds=9.0)).segments[bucket]
    shards = split_into_shards(bucket, segments, (16, 4, 6, 10), "float32", shard_mb=MEMBER_OVERHEAD / 1e6)
    assert [(s.name, len(s.segments)) for s in shards] == [(f"{i:06d}.tar", 1) for i in range(4)]


def test_a_layout_has_every_bucket_with_segments_and_counts_the_rest(make_clip):
    layout = lay_out_clips(make_clip("a", 9.0), make_clip("b", 1.0), make_clip("c", 0.0, media="image"))
    found = {b.shards[0].bucket: (b.resolution, sum(len(s.segments) for s in b.shards)) for b in layout.buckets}
    assert found == {"video_48x80_32f": (64, 4), "image_48x80": (64, 1)}
    assert layout.unused == Counter({"64p: shorter than 2 s": 1})
    assert layout.leftover_s == pytest.approx(2.0)


def test_clips_that_yield_nothing_are_refused_with_the_reasons(make_clip):
    message = "--curated: no clip of CURATED yields a sample (2 64p: shorter than 2 s); change --frames"
    with pytest.raises(ValueError, match=re.escape(message)):
        lay_out_clips(make_clip("a", 1.0), make_clip("b", 1.5))
    with pytest.raises(ValueError, match="it has no clips"):
        lay_out_clips()
