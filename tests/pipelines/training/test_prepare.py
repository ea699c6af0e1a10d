"""What a stage is told before it starts."""

import pytest

from lingen.data.synthetic import write_random_encoding
from pipelines.recipes import find_stage
from pipelines.training.config import TrainConfig
from pipelines.training.prepare import reviewed_clips
from pipelines.training.stage import train


def test_tuning_needs_a_reviewed_list_that_keeps_something(tmp_path):
    tuning, other = find_stage("demo_tune_96p_4s")[1], find_stage("demo_t2i_64p")[1]
    assert reviewed_clips(other, None) is None
    path = tmp_path / "quality.csv"
    for text, named in (
        (None, "is no file"),
        ("a,b\n", "needs the columns"),
        ("clip_id,keep\nx,no\n", "keeps no clip"),
    ):
        if text:
            path.write_text(text)
        with pytest.raises(ValueError, match=f"--quality: .*{named}"):
            reviewed_clips(tuning, path)
    with pytest.raises(ValueError, match="--quality: stage demo_tune_96p_4s trains on a reviewed set"):
        reviewed_clips(tuning, None)
    path.write_text("clip_id,keep\nx,yes\ny,no\n")
    assert reviewed_clips(tuning, path) == ["x"]


def test_a_mixture_that_cannot_be_is_refused_before_any_work(tmp_path):
    shards = write_random_encoding(tmp_path / "shards", {"video_64x64_16f": 4})
    with pytest.raises(ValueError, match=r"image_ratio: .* has no image buckets"):
        train(TrainConfig(stage="demo_t2v_64p_1s", shards=shards, output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
