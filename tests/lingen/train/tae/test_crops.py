"""Crops: functions of (seed, step, place), of images or of videos, from anywhere in a segment."""

import functools

import numpy as np
import pytest
import torch

from lingen.train.tae.config import TAEFitConfig
from lingen.train.tae.crops import Crops, cut, first_crops, spread, to_tensor

CONFIG = TAEFitConfig(preset="tae_tiny", batch_size=4, crop=32, frames=8)


def ramp(seed, frames=12, height=40, width=48):
    """A segment in which every pixel tells its frame, row and column."""
    t, y, x = np.mgrid[0:frames, 0:height, 0:width]
    return np.stack([t + 20 * seed, y, x], axis=-1).astype(np.uint8)


VIDEOS = [functools.partial(ramp, seed) for seed in range(5)]
IMAGES = [functools.partial(ramp, seed, frames=1) for seed in range(5, 8)]


def test_ranks_share_a_batch_that_depends_on_seed_and_step_alone():
    crops = Crops(CONFIG, VIDEOS, [])
    whole = crops.batch(7, 0, 1)
    assert whole.shape == (4, 3, 8, 32, 32)
    first, second = crops.batch(7, 0, 2), crops.batch(7, 1, 2)
    assert torch.equal(whole, torch.stack([first[0], second[0], first[1], second[1]]))
    assert not torch.equal(whole, crops.batch(8, 0, 1))
    assert not torch.equal(whole[0], whole[1])


def test_a_step_has_one_medium_and_images_come_in_their_share():
    crops = Crops(CONFIG, VIDEOS, IMAGES)
    frames = [crops.batch(step, 0, 4).shape[2] for step in range(400)]
    assert set(frames) == {1, 8}
    assert frames.count(1) / 400 == pytest.approx(CONFIG.image_share, abs=0.07)
    assert {Crops(CONFIG, [], IMAGES).batch(step, 0, 4).shape[2] for step in range(10)} == {1}


def test_a_cut_is_a_piece_of_its_segment_mirrored_half_of_the_time():
    rng = np.random.default_rng(0)
    mirrored, origins = 0, set()
    for _ in range(200):
        crop = cut(ramp(0), CONFIG, rng)
        assert crop.shape == (8, 32, 32, 3)
        mirrored += crop[0, 0, 0, 2] > crop[0, 0, 1, 2]
        crop = crop[:, :, ::-1] if crop[0, 0, 0, 2] > crop[0, 0, 1, 2] else crop
        t, y, x = map(int, crop[0, 0, 0])
        assert np.array_equal(crop, ramp(0)[t : t + 8, y : y + 32, x : x + 32])
        origins.add((t, y, x))
    assert 70 < mirrored < 130
    for axis, last in enumerate((4, 8, 16)):
        assert {origin[axis] for origin in origins} == set(range(last + 1)), "every place, the last one too"


def test_a_segment_that_is_too_small_is_used_whole_and_mirrored_at_its_edge():
    crop = cut(ramp(0, frames=5, height=24), CONFIG, np.random.default_rng(1))
    assert crop.shape == (5, 32, 32, 3)
    rows = crop[0, :, 0, 1].tolist()
    assert rows == [*range(24), *range(23, 15, -1)]


def test_pixels_become_floats_between_minus_one_and_one():
    video = to_tensor(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, axis=3))
    assert video.shape == (3, 2, 1, 1)
    assert video[:, 0].eq(-1).all()
    assert video[:, 1].eq(1).all()


@pytest.mark.parametrize(("count", "limit", "expected"), [(10, 3, [0, 3, 6]), (2, 4, [0, 1]), (0, 4, [])])
def test_a_few_segments_are_spread_evenly(count, limit, expected):
    assert spread(list(range(count)), limit) == expected


def test_the_first_crops_are_the_same_in_every_run():
    assert torch.equal(first_crops(VIDEOS, CONFIG), first_crops(VIDEOS, CONFIG))
    assert len(first_crops(VIDEOS, CONFIG, limit=2)) == 2
