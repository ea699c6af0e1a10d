"""A stage takes the text encoders that its shards were made with, all of them, and no others."""

import dataclasses
import json

import pytest
import torch

from lingen.data.shard_index import ShardIndex
from lingen.data.synthetic import write_random_latents
from lingen.io.manifest import write_json
from lingen.text.encoders import build_text_encoder, parse_text_encoders
from lingen.text.padding import pad_text
from lingen.train.export import describe
from pipelines.recipes import find_stage
from pipelines.training.prepare import stage_architecture
from pipelines.training.prompts import read_prompts, write_prompts

SPECS = ("a=lingen-tiny", "b=lingen-tiny,seed=1")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """(settings of two encoders, an index of shards that they made)."""
    settings = parse_text_encoders(SPECS)
    built = {name: build_text_encoder(config) for name, config in settings.items()}
    folder = tmp_path_factory.mktemp("shards")
    encoders = [(name, encoder.digest, encoder.dim) for name, encoder in built.items()]
    write_random_latents(folder, {"image_64x64": 2}, encoders=encoders)
    return list(settings.values()), ShardIndex.open(folder)


def test_prompts_are_embedded_by_every_encoder(encoded, tmp_path):
    settings, shards = encoded
    prompts = ("a dog", "the sea at night")
    write_prompts(tmp_path / "p.safetensors", prompts, settings, shards)
    for config, (embedding_BLD, mask_BL) in zip(settings, read_prompts(tmp_path / "p.safetensors"), strict=True):
        expected = pad_text(build_text_encoder(config).encode(prompts))
        assert torch.equal(embedding_BLD, expected[0])
        assert torch.equal(mask_BL, expected[1])
    other = [settings[0], dataclasses.replace(settings[1], seed=2)]
    with pytest.raises(ValueError, match="--shards: made with text encoder b"):
        write_prompts(tmp_path / "p.safetensors", prompts, other, shards)


def test_a_model_of_other_encoders_is_no_start(encoded, tmp_path):
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
