import math

import numpy as np
import pytest

from data_prep.curate.scores import SCORES, VIDEO_SCORES, span_scores, stills_inside

SAMPLES = 8


def signals(**changes):
    """Measurements of eight seconds of video, a sample each second and flow between every second pair."""
    flow = [math.nan if i % 2 else float(i) for i in range(SAMPLES)]
    row = {"width": 640, "height": 360, "damaged": 0.0, "media_type": "video", "bars": [0.1, 0.1, 0.0, 0.0]}
    row |= {"still_s": [1.0, 3.0, 6.0], "sample_s": [float(i) for i in range(SAMPLES)]}
    row |= {"sample_luma": [8.0] * 2 + [100.0] * 6, "sample_spread": [4.0] * SAMPLES}
    row |= {"sample_diff": [0.0, 0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0]}
    row |= dict.fromkeys(("motion", "camera_motion", "object_motion", "camera_x"), flow)
    row |= {"camera_y": [0.0] * SAMPLES, "moving_area": [0.25] * SAMPLES}
    stills = ("technical", "sharpness", "contrast", "colourfulness", "exposure", "brightness", "text_area")
    return row | {name: [2.0, 4.0, 9.0] for name in stills} | changes


def test_scores_are_of_the_span_alone():
    whole, late = span_scores(signals(), 0.0, 8.0), span_scores(signals(), 4.0, 8.0, [1.0, 1.0, 7.0])
    assert set(whole) == set(SCORES)
    assert (whole["seconds"], late["seconds"]) == (8.0, 4.0)
    assert (whole["technical"], late["technical"]) == (5.0, 9.0)
    assert math.isnan(whole["aesthetic"])
    assert late["aesthetic"] == 7.0
    assert (whole["black"], late["black"]) == (0.25, 0.0)
    assert (whole["frozen"], late["frozen"]) == (pytest.approx(3 / 7), 0.0)
    assert whole["bars"] == pytest.approx(0.2)


def test_motion_is_the_mean_of_the_flows_inside():
    whole = span_scores(signals(), 0.0, 8.0)
    assert whole["motion"] == np.mean([2.0, 4.0, 6.0])  # the flow at 0 is against no sample of this span
    assert whole["scene_motion"] == pytest.approx(math.sqrt(4.0 * 25.0))
    assert whole["jitter"] == 2.0
    assert span_scores(signals(), 4.0, 7.0)["motion"] == 6.0
    assert span_scores(signals(), 4.0, 7.0)["jitter"] == 0.0


def test_an_image_has_no_score_of_time():
    found = span_scores(signals(media_type="image"), 0.0, 0.0)
    assert all(math.isnan(found[name]) for name in (*VIDEO_SCORES, "seconds"))
    assert (found["technical"], found["short_side"]) == (5.0, 360.0)


def test_stills_of_a_span_or_the_nearest():
    assert stills_inside([1.0, 3.0, 6.0], 0.0, 6.0) == [0, 1]
    assert stills_inside([1.0, 3.0, 6.0], 3.5, 4.5) == [1]
    assert stills_inside([1.0, 3.0, 6.0], 0.0, 0.0) == [0, 1, 2]
