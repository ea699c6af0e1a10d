"""Dissolves between real shots, and changes that only look like one."""

import cv2
import numpy as np
import pytest

from data_prep.curate.candidates import _spans_of
from data_prep.curate.spans import SpanConfig
from data_prep.measure.cuts import ShotConfig, signature
from data_prep.measure.dissolves import DissolveFinder
from data_prep.measure.examine import ExamineConfig, examine
from data_prep.media.frames import read_frames

FPS, SIZE = 24, (96, 160)


def shot(clips, name, seconds, start_s=0.0):
    """Luma and chroma (T, 3, H, W) of a real shot."""
    rgb = read_frames(clips / "videos" / name, start_s + np.arange(round(seconds * FPS)) / FPS, SIZE)
    return np.stack([np.moveaxis(cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb), -1, 0) for frame in rgb])


def found_in(frames):
    finder = DissolveFinder()
    for i, planes in enumerate(frames):
        finder.add(i / FPS, signature(list(planes)))
    return [d for d in finder.found() if d.misfit < ShotConfig().max_misfit]


@pytest.fixture(scope="module")
def pair(clips):
    return shot(clips, "sam2_01_dog.mp4", 3), shot(clips, "shared-assets_flower.mp4", 3)


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_a_dissolve_between_real_shots_is_found_where_it_is(pair, seconds):
    first, second = pair
    n = round(seconds * FPS)
    share = np.linspace(0, 1, n)[:, None, None, None]
    mixed = ((1 - share) * first[-n:] + share * second[:n]).round().astype(np.uint8)
    found = found_in([*first[:-n], *mixed, *second[n:]])
    assert len(found) == 1
    assert found[0][:2] == pytest.approx((3 - seconds, 3), abs=0.3)


def test_a_cut_a_moving_camera_and_a_change_of_exposure_are_not_dissolves(pair, clips):
    first, second = pair
    assert found_in([*first, *second]) == []
    assert found_in(shot(clips, "media_sample.video.mp4", 2)) == []  # a phone tilts over a roof
    still = np.repeat(first[:1], 3 * FPS, 0).astype(np.float32)
    gain = np.clip(np.linspace(-0.5, 1.5, len(still)), 0, 1)[:, None, None]
    still[:, 0] = still[:, 0] * (0.6 + 0.4 * gain) + 20 * gain
    assert np.abs(still[0, 0] - still[-1, 0]).mean() > 40
    assert found_in(still.astype(np.uint8)) == []


def test_a_real_title_dissolves_into_the_video_and_mixed_pictures_are_not_a_clip(clips):
    row, _ = examine(str(clips / "videos" / "interactive-examples_stream-of-water-audioless.webm"), ExamineConfig())
    pieces = _spans_of(row | {"key": "k"}, ShotConfig(), SpanConfig(), ((), None))
    mixed = [(piece["start_s"], piece["end_s"]) for piece in pieces if piece["reason"] == "dissolve"]
    assert mixed == [pytest.approx((0.9, 1.5), abs=0.35)]
    whole = _spans_of(row | {"key": "k"}, ShotConfig(max_misfit=0), SpanConfig(), ((), None))
    assert "dissolve" not in [piece["reason"] for piece in whole]
