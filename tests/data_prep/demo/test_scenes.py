import itertools
from collections import Counter

import numpy as np
import pytest

from data_prep.demo.scenes import (
    COLORS,
    COMBINATIONS,
    DIRECTIONS,
    FPS,
    HELD_OUT,
    LENGTHS,
    SHAPES,
    TRAINED,
    draw_scenes,
    draw_stills,
    render,
    scene_of,
)


def test_a_sixth_is_held_out_and_each_pair_of_words_is_trained():
    assert len(COMBINATIONS) == 72
    assert len(HELD_OUT) == len(set(HELD_OUT)) == 12
    assert set(HELD_OUT).isdisjoint(TRAINED)
    for a, b in itertools.combinations(range(3), 2):
        assert {(c[a], c[b]) for c in TRAINED} == {(c[a], c[b]) for c in COMBINATIONS}


def test_no_scene_shows_a_held_out_combination_and_all_others_come_equally_often():
    scenes = draw_scenes(180, seed=3)
    shown = Counter(mover.combination for scene in scenes for mover in scene.movers[:1])
    assert set(shown.values()) == {3}
    assert {mover.combination for scene in scenes for mover in scene.movers} == set(TRAINED)
    assert any(len(scene.movers) == 2 for scene in scenes)
    assert Counter(scene.seconds for scene in scenes) == dict(zip(LENGTHS, (135, 23, 22)))


def test_captions_say_what_is_shown_in_several_wordings():
    scenes = draw_scenes(120, seed=0)
    for scene in scenes:
        for mover in scene.movers:
            color, shape, direction = mover.combination
            assert f"{color} {shape}" in scene.caption or f"{color} {SHAPES[shape]}" in scene.caption
            assert direction in scene.caption
    assert any(word in scene.caption for scene in scenes for word in SHAPES.values())


def test_the_same_seed_draws_the_same_scenes():
    assert draw_scenes(10, 5) == draw_scenes(10, 5) != draw_scenes(10, 6)
    scene = draw_scenes(1, 5)[0]
    assert (render(scene, 48) == render(scene, 48)).all()


@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_shape_moves_that_way_on_a_ground_that_stands_still(seconds, direction):
    scene = scene_of(next(c for c in COMBINATIONS if c.direction == direction), 7, seconds)
    frames = render(scene, 64)
    assert frames.shape == (round(seconds * FPS), 64, 64, 3)
    assert (frames[:, 0, 0] == frames[0, 0, 0]).all()
    chroma = frames.max(axis=3).astype(int) - frames.min(axis=3)
    first, last = (np.argwhere(chroma[i] > 80).mean(axis=0)[::-1] for i in (0, 16))
    way = (last - first) / 64
    assert way[np.array(DIRECTIONS[direction]) == 0] == pytest.approx(0, abs=0.05)
    assert way @ np.array(DIRECTIONS[direction]) > 0.25


def test_stills_are_one_frame_of_every_colour_and_shape():
    stills = draw_stills(18, seed=0)
    assert {still.caption for still in stills} == {f"a {color} {shape}" for color in COLORS for shape in SHAPES}
    assert render(stills[0], 64).shape == (1, 64, 64, 3)
