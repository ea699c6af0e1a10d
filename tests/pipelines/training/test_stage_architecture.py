"""Latents of any autoencoder reach the trainer: what must agree with the preset is checked first, and named."""

from types import SimpleNamespace

import pytest

from pipelines.recipes import find_stage
from pipelines.training.prepare import stage_architecture


def shards(*latent_shapes):
    buckets = {str(i): SimpleNamespace(latent_shape=shape) for i, shape in enumerate(latent_shapes)}
    return SimpleNamespace(buckets=buckets, text_dims=(8,))


def test_position_tables_follow_the_latents_not_the_pictures():
    """A causal autoencoder makes 1 + ceil((T - 1) / 8) latent frames, one more than ours."""
    stage = find_stage("t2v_256p_17s")[1]
    architecture = stage_architecture(stage, shards((16, 35, 64, 96), (16, 1, 8, 8)), None)
    patch = architecture.patch
    assert architecture.position_sizes[0] >= 35 // patch[0]
    assert architecture.position_sizes[2] >= 96 // patch[2]


def test_latents_that_do_not_fit_the_preset_are_named():
    stage = find_stage("t2v_256p_17s")[1]
    with pytest.raises(ValueError, match=r"--shards: their latents have 48 channels, preset lingen_4b takes 16"):
        stage_architecture(stage, shards((48, 9, 8, 8)), None)
    with pytest.raises(ValueError, match="--shards: preset lingen_4b does not fit them: latents: H = 9 is not"):
        stage_architecture(stage, shards((16, 9, 9, 8)), None)
