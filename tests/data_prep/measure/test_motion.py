"""Motion on real photographs moved by known amounts, and on real videos."""

import cv2
import numpy as np
import pytest

from data_prep.measure.motion import NONE, motion_between
from data_prep.media.frames import read_frames, read_image

H, W, DT = 72, 128, 0.25
DIAGONAL = float(np.hypot(H, W))


@pytest.fixture(scope="module")
def photo(clips):
    return cv2.cvtColor(read_image(clips / "photos" / "test-assets_el_torcal_rocks.jpg"), cv2.COLOR_RGB2GRAY)


def view(photo, x, y, zoom, seed):
    """The photograph as a camera sees it, with sensor noise."""
    scale = W * zoom / photo.shape[1]
    matrix = np.float64([[scale, 0, W / 2 - x * scale], [0, scale, H / 2 - y * scale]])
    seen = cv2.warpAffine(photo, matrix, (W, H), flags=cv2.INTER_AREA)
    return np.clip(seen + np.random.default_rng(seed).normal(0, 1.5, seen.shape), 0, 255).astype(np.uint8)


def scene(m):
    return np.sqrt(m.object * m.moving * 100)


def test_a_still_scene_does_not_move(photo):
    m = motion_between(view(photo, 240, 160, 1.6, 0), view(photo, 240, 160, 1.6, 1), DT)
    assert m.total < 1.0
    assert scene(m) < 0.1


@pytest.mark.parametrize("pixels", [1.0, 3.0, 8.0])
def test_a_pan_over_a_photograph_is_camera_motion_alone(photo, pixels):
    scale = W * 1.6 / photo.shape[1]
    m = motion_between(view(photo, 240, 160, 1.6, 0), view(photo, 240 + pixels / scale, 160, 1.6, 1), DT)
    speed = 100 * pixels / DIAGONAL / DT
    assert m.camera == pytest.approx(speed, rel=0.15)
    assert m.camera_x == pytest.approx(-speed, rel=0.15)
    assert scene(m) < 0.15 * speed**0.5


def test_a_zoom_into_a_photograph_is_camera_motion_alone(photo):
    m = motion_between(view(photo, 240, 160, 1.6, 0), view(photo, 240, 160, 1.7, 1), DT)
    assert m.camera > 3
    assert scene(m) < 0.3


def test_an_object_before_a_fixed_camera_is_object_motion(photo):
    background = view(photo, 240, 160, 1.6, 0)
    before, after = background.copy(), background.copy()
    thing = 255 - view(photo, 240, 200, 1.6, 2)[20:44, 30:54]
    before[20:44, 40:64], after[20:44, 45:69] = thing, thing
    m = motion_between(before, after, DT)
    assert m.camera < 0.5
    assert scene(m) > 0.5


def test_speed_does_not_depend_on_the_sampling_interval(photo):
    scale = W * 1.6 / photo.shape[1]
    slow = motion_between(view(photo, 240, 160, 1.6, 0), view(photo, 240 + 4 / scale, 160, 1.6, 1), 0.5)
    fast = motion_between(view(photo, 240, 160, 1.6, 0), view(photo, 240 + 2 / scale, 160, 1.6, 1), 0.25)
    assert slow.camera == pytest.approx(fast.camera, rel=0.15)


def test_real_shots_land_on_the_right_side(clips):
    def of(name, at):
        before, after = (
            cv2.cvtColor(f, cv2.COLOR_RGB2GRAY)
            for f in read_frames(clips / "videos" / name, [at, at + DT], (H, W), fit="stretch")
        )
        return motion_between(before, after, DT)

    cups = of("sam2_02_cups.mp4", 4.0)  # hands shuffle cups before a fixed camera
    assert cups.object > 2 * cups.camera
    roof = of("media_sample.video.mp4", 1.0)  # a phone tilts over a roof
    assert roof.camera > 3
    assert roof.object < 0.2 * roof.camera


def test_flat_pictures_have_no_motion():
    black = np.zeros((H, W), np.uint8)
    assert motion_between(black, black, DT) == NONE
    assert motion_between(black, black + 200, DT).camera == 0
