"""Shards of two text encoders."""

import pytest

from lingen.data.shard_index import ShardIndex
from lingen.data.synthetic import write_random_latents
from lingen.text.encoders import build_text_encoder, parse_text_encoders

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
