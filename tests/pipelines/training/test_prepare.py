"""A stage's inputs are checked before any work: what does not fit is refused, and named."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from lingen.data.shard_index import ShardIndex
from lingen.data.synthetic import write_random_encoding
from lingen.io.manifest import write_json
from lingen.tae.config import TAEConfig
from lingen.tae.pretrained import save_tae
from lingen.tae.tae import TAE
from lingen.train.config import FitConfig
from lingen.train.export import describe
from lingen.train.observers.guard import GuardConfig
from pipelines.ray_train import TrainWorkers
from pipelines.recipes import find_stage
from pipelines.training.config import TrainConfig
from pipelines.training.prepare import prepare, reviewed_clips, select_shards, stage_architecture, tae_of_shards
from pipelines.training.stage import train


def test_tuning_needs_a_reviewed_list_that_keeps_something(tmp_path):
    tuning, other = find_stage("demo_tune_96p_4s")[1], find_stage("demo_t2i_64p")[1]
    assert reviewed_clips(other, None) is None
    path = tmp_path / "quality.csv"
    for text, named in (
        (None, "is not a file"),
        ("a,b\n", "needs the columns"),
        ("clip_id,keep\nx,no\n", "keeps no clip"),
    ):
        if text:
            path.write_text(text)
        with pytest.raises(ValueError, match=f"--quality: .*{named}"):
            reviewed_clips(tuning, path)
    with pytest.raises(ValueError, match="--quality: stage demo_tune_96p_4s trains on a reviewed set"):
        reviewed_clips(tuning, None)
    path.write_text("clip_id,keep\nx,yes\ny,no\n")
    assert reviewed_clips(tuning, path) == ["x"]


def test_a_mixture_that_cannot_be_is_refused_before_any_work(tmp_path):
    shards = write_random_encoding(tmp_path / "shards", {"video_64x64_16f": 4})
    with pytest.raises(ValueError, match=r"image_ratio: .* has no image buckets"):
        train(TrainConfig(stage="demo_t2v_64p_1s", shards=shards, output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def shards_of(*latent_shapes):
    buckets = {str(i): SimpleNamespace(latent_shape=shape) for i, shape in enumerate(latent_shapes)}
    return SimpleNamespace(buckets=buckets, text_dims=(8,))


def test_position_tables_follow_the_latents_not_the_pictures():
    """A causal autoencoder makes 1 + ceil((T - 1) / 8) latent frames, one more than ours."""
    stage = find_stage("t2v_256p_17s")[1]
    architecture = stage_architecture(stage, shards_of((16, 35, 64, 96), (16, 1, 8, 8)), None)
    patch = architecture.patch
    assert architecture.position_sizes[0] >= 35 // patch[0]
    assert architecture.position_sizes[2] >= 96 // patch[2]


def test_latents_that_do_not_fit_the_preset_are_named():
    stage = find_stage("t2v_256p_17s")[1]
    with pytest.raises(ValueError, match=r"--shards: their latents have 48 channels, preset lingen_4b takes 16"):
        stage_architecture(stage, shards_of((48, 9, 8, 8)), None)
    with pytest.raises(ValueError, match="--shards: preset lingen_4b does not fit them: latents: H = 9 is not"):
        stage_architecture(stage, shards_of((16, 9, 9, 8)), None)


def test_a_model_of_other_encoders_is_not_a_start(encoded, tmp_path):
    settings, shards = encoded
    _, stage = find_stage("demo_t2i_64p")
    architecture = stage_architecture(stage, shards, None)
    assert architecture.text_dims == (128, 128)
    about = json.loads(json.dumps(describe(stage.name, stage.preset, shards, settings, ["x"])))
    assert about["text"][1]["seed"] == 1
    (tmp_path / "ema.safetensors").touch()
    write_json(tmp_path / "config.json", about | {"model": architecture.to_dict()})
    assert stage_architecture(stage, shards, tmp_path) == architecture
    write_json(tmp_path / "config.json", about | {"text_digests": ["0", "1"], "model": architecture.to_dict()})
    with pytest.raises(ValueError, match=r"--init: .* was trained with text encoders a, b"):
        stage_architecture(stage, shards, tmp_path)


def config(folder, **changes):
    shards = write_random_encoding(folder / "shards", {"image_64x64": 6})
    options = {"stage": "demo_t2i_64p", "shards": shards, "output": folder / "run"}
    options["fit"] = FitConfig(batch_size=4, held_out=0.0)
    return TrainConfig(**options | changes)


def test_only_what_decides_the_curve_is_in_the_key(tmp_path):
    one = config(tmp_path)
    key = prepare(one).content
    bookkeeping = {"checkpoint_every": 7, "log_every": 3, "micro_batch": 1, "guard": GuardConfig(max_skips=2)}
    same = dataclasses.replace(one, fit=dataclasses.replace(one.fit, **bookkeeping), workers=TrainWorkers(count=2))
    assert prepare(same).content == key
    for changes in ({"lr": 1.0}, {"batch_size": 5}, {"seed": 1}, {"precision": "bfloat16"}):
        other = dataclasses.replace(one, fit=dataclasses.replace(one.fit, **changes))
        assert prepare(other).content != key, changes


@pytest.mark.parametrize(
    ("workers", "fit", "named"),
    [
        (5, {}, "--workers.count: 5 workers cannot share a batch of 4"),
        (3, {"shard_group": 2}, "--fit.shard-group: 2 does not divide 3 workers"),
    ],
)
def test_workers_that_cannot_share_the_work_are_named(tmp_path, workers, fit, named):
    fit = FitConfig(batch_size=4, held_out=0.0, **fit)
    with pytest.raises(ValueError, match=named):
        prepare(config(tmp_path, fit=fit, workers=TrainWorkers(count=workers)))


def test_a_stage_takes_the_buckets_of_its_resolution_and_length(tmp_path):
    names = {"image_64x64": 2, "video_64x64_16f": 2, "video_64x64_32f": 2}
    folder = write_random_encoding(tmp_path / "shards", names)
    assert list(select_shards(folder, find_stage("demo_t2i_64p")[1]).buckets) == ["image_64x64"]
    assert set(select_shards(folder, find_stage("demo_t2v_64p_1s")[1]).buckets) == {"image_64x64", "video_64x64_16f"}
    images = write_random_encoding(tmp_path / "images", {"image_64x64": 2})
    with pytest.raises(ValueError, match="--shards: "):
        select_shards(images, find_stage("demo_t2v_64p_1s")[1])


def test_a_tae_that_was_replaced_since_is_refused(tmp_path):
    folder = write_random_encoding(tmp_path / "shards", {"image_64x64": 2})
    assert tae_of_shards(ShardIndex.open(folder)) == folder / "tae"
    save_tae(TAE(TAEConfig(channels=(8, 8, 16, 16), blocks=1, decoder_blocks=1)), folder / "tae")
    with pytest.raises(ValueError, match=r"--shards: the TAE in .* is not the one that made these latents"):
        tae_of_shards(ShardIndex.open(folder))
