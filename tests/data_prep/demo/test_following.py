import numpy as np
import pytest

from data_prep.demo import following
from data_prep.demo.detector import Seen
from data_prep.demo.following import Answer, Score, ask, choose
from data_prep.demo.scenes import HELD_OUT, TRAINED, render, scene_of
from data_prep.demo.sheet import SIDE, draw_sheet
from lingen.generate.generator import Generator
from lingen.generate.sampler import SamplerConfig


def test_a_third_of_the_prompts_is_held_out_and_none_comes_twice_before_all_came():
    chosen = choose(48)
    assert [c in HELD_OUT for c in chosen] == [False] * 32 + [True] * 16
    assert len(set(chosen[:32])) == 32
    assert set(chosen[32:44]) == set(HELD_OUT)
    assert choose(48) == chosen != choose(48, seed=1)


def answer(asked, seen, held_out=False):
    return Answer(asked, held_out, Seen(*seen), np.zeros((2, 8, 8, 3), np.uint8))


def test_scores_are_the_shares_of_what_was_asked_for():
    one, other = TRAINED[0], TRAINED[1]
    wrong = (None, other.shape, None)
    score = Score.of([answer(one, one), answer(other, wrong), answer(one, (one.color, None, one.direction))])
    assert score == Score(color=2 / 3, motion=2 / 3, shape=2 / 3, all=1 / 3, prompts=3)


def test_a_model_that_makes_what_is_asked_scores_all_and_a_random_one_about_chance(random_model, monkeypatch):
    generator, counted = Generator(random_model), []
    asked = choose(6)
    sampler = SamplerConfig(steps=1, guidance=1.0)
    random = list(ask(generator, asked, (16, 64, 64), sampler, on_video=lambda: counted.append(1)))
    assert [a.asked for a in random] == asked
    assert len(counted) == 6
    assert Score.of(random).all < 0.5
    drawn = iter(asked)
    monkeypatch.setattr(following, "decoded_frames", lambda *_: [render(scene_of(next(drawn), 0), 64)])
    assert Score.of(list(ask(generator, asked, (16, 64, 64), sampler))) == Score(1, 1, 1, 1, 6)


def test_the_sheet_has_a_row_for_each_answer_and_marks_what_was_not_followed():
    asked = TRAINED[0]
    right = Answer(asked, False, Seen(*asked), render(scene_of(asked, 0), 64))
    sheet = draw_sheet({"first": [right, right], "last": [right, right._replace(seen=Seen(None, None, None))]})
    assert sheet.height == pytest.approx(2 * SIDE, abs=80)
    pixels = np.asarray(sheet).reshape(-1, 3)
    assert (pixels == (20, 120, 50)).all(axis=1).any()
    assert (pixels == (190, 30, 30)).all(axis=1).any()
    only_right = np.asarray(draw_sheet({"one": [right]})).reshape(-1, 3)
    assert not (only_right == (190, 30, 30)).all(axis=1).any()
