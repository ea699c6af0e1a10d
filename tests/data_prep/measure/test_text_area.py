import cv2
import numpy as np
import pytest

from data_prep.measure.text_area import SHORT_SIDE, text_area
from data_prep.media.frames import read_frames, read_image
from data_prep.media.probe import probe


def area(rgb):
    scale = min(1.0, SHORT_SIDE / min(rgb.shape[:2]))
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return text_area(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))


def at_middle(path):
    known = probe(path)
    return read_frames(path, [known.duration_s / 2], known=known)[0]


def test_photographs_have_little_text(clips):
    """Gravel, foliage, fur and coins among them; 7% is where SVD drops a clip."""
    areas = {p.name: area(read_image(p)) for p in (clips / "photos").iterdir()}
    assert max(areas.values()) < 0.04, areas
    assert np.median(list(areas.values())) < 0.005


@pytest.mark.parametrize(
    "name", ["rails_video_with_rectangular_samples.mp4", "rails_video_with_undefined_display_aspect_ratio.mp4"]
)
def test_screens_full_of_text_are_found(clips, name):
    assert area(at_middle(clips / "odd" / name)) > 0.07


def test_burnt_in_subtitles_are_found(clips):
    assert 0.02 < area(at_middle(clips / "videos" / "media_roadtrip-vp92-10bit.webm")) < 0.07


def test_area_grows_with_the_words_and_not_with_the_picture(clips):
    photo = read_image(clips / "photos" / "test-assets_prairie_falcon.jpg", (360, 540)) // 2
    areas = [area(photo)]
    for lines in (1, 4):
        written = photo.copy()
        for i in range(lines):
            at = (20, 60 + 60 * i)
            cv2.putText(written, "Subtitles are burnt in here", at, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255,) * 3, 2)
        areas.append(area(written))
    assert areas[0] < 0.02 < areas[1] < areas[2]
    assert areas[2] > 0.07


def test_blank_pictures():
    assert text_area(np.zeros((90, 160), np.uint8)) == 0
    assert text_area(np.full((16, 16), 255, np.uint8)) == 0
