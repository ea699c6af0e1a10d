import json
import shutil

import pytest
import torch

from lingen.generate.generator import Generator
from lingen.generate.sampler import SamplerConfig

SIZE = (16, 64, 64)
SAMPLER = SamplerConfig(steps=2, guidance=2.0)


def test_prompts_together_are_the_same_as_alone(random_model):
    """Also with prompts of different lengths, which are padded together."""
    generator = Generator(random_model)
    prompts, seeds = ["a red ball moves to the left", "rain", "two cats"], [5, 6, 5]
    together = generator.latents(prompts, seeds, SIZE, SAMPLER)
    assert together.shape == (3, *generator.tae.latent_shape(*SIZE))
    for i, (prompt, seed) in enumerate(zip(prompts, seeds)):
        torch.testing.assert_close(
            generator.latents([prompt], [seed], SIZE, SAMPLER)[0], together[i], atol=1e-4, rtol=0
        )
    assert (together[0] - together[2]).abs().max() > 1e-3  # the same noise, another prompt


def test_another_text_encoder_than_in_training_is_refused(random_model, tmp_path):
    shutil.copytree(random_model / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_digests": ["0" * 16]}))
    with pytest.raises(ValueError, match=f"^--checkpoint: trained with text encoder {'0' * 16}, but open_clip/"):
        Generator(tmp_path)
