import av
import cv2
import numpy as np
import pytest

from data_prep.demo.detector import Seen, see
from data_prep.demo.scenes import COMBINATIONS, LENGTHS, render, scene_of
from lingen.io.video import write_mp4


def shrunk(frames, side):
    return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in frames])


@pytest.mark.parametrize("side", [64, 96])
def test_the_detector_is_right_on_real_scenes(side):
    """Of all combinations and lengths: at least 98% in each respect, or scores would measure the detector."""
    asked = [(c, seconds) for i, c in enumerate(COMBINATIONS) for seconds in (LENGTHS[i % len(LENGTHS)],)]
    seen = [see(shrunk(render(scene_of(c, i, seconds)), side)) for i, (c, seconds) in enumerate(asked)]
    for part in range(3):
        right = sum(s[part] == c[part] for s, (c, _) in zip(seen, asked))
        assert right >= 0.98 * len(asked), part


def test_it_still_is_after_h264(tmp_path):
    asked = COMBINATIONS[::6]
    for i, combination in enumerate(asked):
        path = write_mp4(tmp_path / f"{i}.mp4", render(scene_of(combination, i)), 16)
        with av.open(str(path)) as video:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
        assert see(shrunk(frames, 64)) == Seen(*combination)


def test_nothing_is_told_of_noise_a_grey_clip_or_a_shape_that_stands_still():
    grey = np.full((16, 64, 64, 3), 120, np.uint8)
    assert see(grey) == Seen(None, None, None)
    standing = np.repeat(shrunk(render(scene_of(COMBINATIONS[0], 0))[:1], 64), 16, axis=0)
    assert see(standing)._replace(shape=None, color=None) == Seen(None, None, None)
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
    assert see(noise).direction is None


def test_a_clip_played_backwards_moves_the_other_way():
    frames = shrunk(render(scene_of(COMBINATIONS[0], 0)), 64)
    assert (see(frames).direction, see(frames[::-1]).direction) == ("left", "right")
