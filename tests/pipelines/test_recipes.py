"""Recipes: the paper's table, and the demo as the paper in miniature."""

import pytest

from lingen.model.stages import STAGES, TUNING_STAGES
from pipelines.recipes import RECIPES, find_stage


def test_the_paper_recipe_is_the_papers_table():
    paper = RECIPES["paper"]
    assert [(s.name, s.fit.steps, s.fit.batch_size, s.frames) for s in paper.stages] == [
        (s.name, s.steps, s.batch, s.frames) for s in (*STAGES, *TUNING_STAGES)
    ]
    assert {s.fit.image_ratio for s in paper.stages if not s.quality} == {"1:100"}
    assert [s.quality for s in paper.stages] == [False] * 5 + [True] * 2


def test_the_demo_is_the_paper_in_miniature():
    """The same five stages and tuning: images, short videos, larger, twice, four times as long."""
    demo = RECIPES["demo"].stages
    assert [s.frames > 1 for s in demo] == [s.frames > 1 for s in STAGES] + [True]
    assert demo[1].resolution < demo[2].resolution == demo[3].resolution == demo[4].resolution
    assert [s.frames // demo[1].frames for s in demo[1:]] == [1, 1, 2, 4, 4]
    assert [s.quality for s in demo] == [False] * 5 + [True]


def test_stages_are_found_by_name():
    assert find_stage("demo_t2v_96p_2s")[0].name == "demo"
    with pytest.raises(ValueError, match="--stage: t2v_1024p is unknown; the stages are demo_t2i_64p"):
        find_stage("t2v_1024p")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_stage_that_starts_from_another_names_an_earlier_one(recipe):
    names = [stage.name for stage in recipe.stages]
    assert len(set(names)) == len(names)
    assert all(stage.after in names[:i] for i, stage in enumerate(recipe.stages) if stage.after)
