import cv2
import numpy as np
import pytest

from data_prep.measure.technical import technical_quality
from data_prep.media.frames import read_image


@pytest.fixture(scope="module")
def photo(clips):
    return read_image(clips / "photos" / "scikit-image_astronaut.png", (224, 224))


def test_each_metric_follows_what_it_is_named_after(photo):
    good = technical_quality(photo)
    blurred = technical_quality(cv2.GaussianBlur(photo, (0, 0), 4))
    flat = technical_quality((128 + (photo.astype(int) - 128) * 0.1).astype(np.uint8))
    dark = technical_quality((photo * 0.05).astype(np.uint8))
    grey = technical_quality(np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, 2))
    assert blurred.sharpness < good.sharpness - 1
    assert flat.contrast == pytest.approx(0.1 * good.contrast, rel=0.1)
    assert dark.exposure < 0.5 * good.exposure
    assert dark.brightness < 8
    assert grey.colourfulness == pytest.approx(0, abs=0.5)
    for worse in (blurred, flat, dark):
        assert worse.score < good.score - 2
    assert grey.score > 0.6 * good.score  # black-and-white film is not a fault


def test_a_sharp_subject_before_a_soft_background_is_sharp(photo):
    soft = cv2.GaussianBlur(photo, (0, 0), 6)
    soft[60:160, 60:160] = photo[60:160, 60:160]
    assert technical_quality(soft).sharpness > technical_quality(photo).sharpness - 0.5


def test_real_photographs_pass_and_featureless_ones_do_not(clips):
    scores = {p.name: technical_quality(read_image(p, (224, 224))).score for p in (clips / "photos").iterdir()}
    assert min(scores.values()) > 3
    assert technical_quality(np.zeros((64, 64, 3), np.uint8)).score < 2
    assert technical_quality(np.full((64, 64, 3), 128, np.uint8)).score < 3
