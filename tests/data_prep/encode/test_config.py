import re

import pytest

from data_prep.encode.config import EncodeConfig
from data_prep.encode.pool import EncodeWorkers
from lingen.data.buckets import Bucket, bucket_set
from lingen.model.stages import STAGES
from lingen.tae.tiling import TilingConfig


def config(**changes):
    return EncodeConfig(**{"curated": ".", "output": ".", "tae": "."} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ("t2v_1m",)}, "--stages: 't2v_1m' is unknown"),
        ({"text": ()}, "--text: name at least one encoder"),
        ({"frames": (), "images": False}, "--frames: nothing to encode"),
        ({"frames": (17, 1)}, "--frames: 1 is not the length of a video; use --images"),
        ({"shard_mb": 0}, "--shard-mb: must be greater than 0, got 0"),
        ({"max_windows_per_clip": -1}, "--max-windows-per-clip: must be greater than 0"),
        ({"aspect_ratios": ()}, "--aspect-ratios: give at least one"),
    ],
)
def test_bad_settings_are_refused_by_the_name_of_their_flag(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**changes)


def test_the_papers_stages_have_their_buckets():
    paper = config(stages=tuple(s.name for s in STAGES))
    assert paper.lengths() == {256: {1, 272}, 512: {1, 272, 544, 1088}}
    for stage in STAGES:
        media = "image" if stage.frames == 1 else "video"
        sets = [bucket_set(r, paper.aspect_ratios, sorted(f)) for r, f in paper.lengths().items()]
        assert Bucket(media, stage.height, stage.width, stage.frames) in [b for s in sets for b in s]


def test_lengths_without_stages_are_those_of_the_flags():
    assert config(resolution=64, frames=(17, 33)).lengths() == {64: {1, 17, 33}}
    assert config(resolution=64, frames=(17,), images=False).lengths() == {64: {17}}


def test_paths_and_resources_do_not_count_as_content():
    here = config().content()
    elsewhere = config(
        output="/x", workers=EncodeWorkers(count=3), tiling=TilingConfig(tile=64), decode_cpus=2.0, overwrite=True
    )
    assert elsewhere.content() == here
    assert config(fps=8.0).content() != here
