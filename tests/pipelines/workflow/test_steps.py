"""A recipe's steps, and what may run beside what."""

from pathlib import Path

import pytest

from lingen.model.stages import ALL_STAGES
from pipelines.recipes import RECIPES
from pipelines.workflow.steps import steps_of

CLIPS = "s3://bucket/clips.csv"


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_step_comes_after_what_it_needs(recipe):
    names = []
    for step in steps_of(recipe, Path("out"), CLIPS):
        assert set(step.after) | set(step.waits_for) <= set(names)
        names.append(step.name)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_stage_trains_on_the_folder_that_has_its_resolution(recipe):
    steps = steps_of(recipe, Path("out"), CLIPS)
    encoded = {step.output: step.flags for step in steps if step.job == "encode"}
    trained = [step for step in steps if step.job == "train"]
    assert len(trained) == len(recipe.stages)
    for step, stage in zip(trained, recipe.stages):
        shards = Path(step.flags[step.flags.index("--shards") + 1])
        assert stage.name in encoded[shards]
        assert shards.name == f"latents_{ALL_STAGES[stage.name].resolution}p"


def test_the_larger_clips_are_encoded_while_the_first_stages_train():
    steps = {step.name: step for step in steps_of(RECIPES["demo"], Path("out"), None)}

    def needs(name):
        return {name}.union(*(needs(other) for other in (*steps[name].after, *steps[name].waits_for)))

    assert "encode 96p" not in needs("train demo_t2v_64p_1s")
    assert "encode 96p" in needs("train demo_t2v_96p_1s")
    assert "encode 64p" in needs("encode 96p"), "each alone keeps all CPUs busy"


def test_a_stage_is_evaluated_beside_the_next_and_the_last_step_has_all():
    *steps, last = steps_of(RECIPES["demo"], Path("out"), None)
    scores = [step for step in steps if step.job == "evaluate"]
    stages = [stage.name for stage in RECIPES["demo"].stages if stage.frames > 1]
    assert [step.after for step in scores] == [(f"train {stage}",) for stage in stages]
    assert not any(step.name in other.after + other.waits_for for step in scores for other in steps)
    assert last.after == tuple(step.name for step in scores)
    at = last.flags.index("--scored")
    assert last.flags[at + 1 :][: len(stages)] == tuple(str(step.output) for step in scores)


def test_tuning_depends_on_the_list_that_curation_proposes():
    tuning = next(step for step in steps_of(RECIPES["demo"], Path("out"), None) if "--quality" in step.flags)
    assert "curate" in tuning.after
