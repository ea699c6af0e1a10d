"""Sample prompts: embedded by the encoders of the shards, all of them, and by no others."""

import dataclasses

import pytest
import torch

from lingen.text.encoders import build_text_encoder
from lingen.text.padding import pad_text
from pipelines.training.prompts import read_prompts, write_prompts


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
