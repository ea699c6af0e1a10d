"""A stage's plan from its own flags and shards."""

from types import SimpleNamespace

import pytest

from lingen.data.shard_index import ShardIndex
from lingen.data.synthetic import write_random_encoding
from lingen.model.presets import preset
from pipelines.plan.stages import of_shards
from pipelines.ray_train import TrainWorkers
from pipelines.recipes import find_stage
from pipelines.training import dry_run as dry_run_module
from pipelines.training.config import TrainConfig
from pipelines.training.dry_run import dry_run


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Settings of a demo stage on random shards, already prepared."""
    folder = write_random_encoding(tmp_path / "latents", {"image_64x64": 8, "video_64x64_16f": 16})
    found = find_stage("demo_t2v_64p_1s")[1]
    shards = ShardIndex.open(folder)
    architecture = preset(found.preset)
    text = {"config": {"text": ["lingen-tiny"]}}
    prepared = SimpleNamespace(stage=found, train=shards, encoded=text, architecture=architecture)
    monkeypatch.setattr(dry_run_module, "prepare", lambda config: prepared)
    return {"stage": found.name, "shards": folder, "output": tmp_path / "run", "fit": found.fit}


@pytest.mark.slow
def test_the_plan_of_one_stage_is_printed_and_nothing_is_written(stage, capsys):
    dry_run(TrainConfig(**stage, dry_run=True, workers=TrainWorkers(count=4)))
    printed = capsys.readouterr().out
    assert "A plan for 1 x 4 h100" in printed
    assert "video_64x64_16f" in printed
    assert not stage["output"].exists()


@pytest.mark.slow
def test_a_card_that_is_too_small_is_refused(stage):
    with pytest.raises(ValueError, match=r"demo_t2v_64p_1s: its estimated peak of .* one small: "):
        dry_run(TrainConfig(**stage, dry_run=True, gpu="small:0.001:1:1"))


def test_shards_say_how_wide_their_text_is_and_how_many_samples_there_are(stage):
    planned = of_shards(find_stage(stage["stage"])[1], ShardIndex.open(stage["shards"]), ((77, 1),))
    assert planned.there == {"image_64x64": 8, "video_64x64_16f": 16}
    assert planned.text[0][1] == ShardIndex.open(stage["shards"]).text_dims[0]
    assert planned.largest.frames == 16
