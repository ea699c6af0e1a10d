"""A trained model with its text encoders and its TAE, loaded once for any number of prompts. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lingen.generate.sampler import SamplerConfig, sample
from lingen.model.conditioning import Text
from lingen.model.pretrained import load_denoiser, model_folder, read_about
from lingen.tae.pretrained import load_tae
from lingen.text.encoders import TextEncoderConfig, build_text_encoder
from lingen.text.padding import pad_text


class Generator:
    """Draws latents for prompts.

    Args:
        checkpoint: output folder of a finished jobs/train.py, or its model folder.
        weights: averaged (ema) or last (raw).
        device: where everything runs.

    Raises:
        ValueError: there is no model at `checkpoint`, or a text encoder differs from the one it was trained with.
    """

    def __init__(self, checkpoint: str | Path, weights: str = "ema", device: str = "cpu"):
        folder = model_folder(checkpoint)
        self.about = read_about(folder)
        """the model folder's config.json"""
        self.tae = load_tae(folder / "tae").to(device)
        self._encoders = [build_text_encoder(TextEncoderConfig(**text), device) for text in self.about["text"]]
        for encoder, digest in zip(self._encoders, self.about["text_digests"]):
            if encoder.digest != digest:
                raise ValueError(
                    f"--checkpoint: trained with text encoder {digest}, but {encoder.name} is {encoder.digest} here; "
                    "use the same open_clip version and weights"
                )
        self._model = load_denoiser(folder, weights, device)
        self._device = device

    @property
    def text_encoders(self) -> str:
        """Names of the model's text encoders."""
        return ", ".join(encoder.name for encoder in self._encoders)

    @torch.no_grad()
    def latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        size: tuple[int, int, int],
        sampler: SamplerConfig,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Sample one latent per prompt, all at once; each depends on its own seed and prompt alone.

        Args:
            prompts: what the videos show.
            seeds: of their noise, as many.
            size: (frames, height, width) of the videos.
            sampler: steps and guidance.
            on_step: called with the number of completed steps.

        Returns:
            Normalised latents (B, C, T, H, W), for `lingen.tae.frames.decoded_frames`.
        """
        shape = self.tae.latent_shape(*size)
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return sample(self._model, torch.stack(drawn).to(self._device), self._embed(prompts), sampler, on_step)

    def _embed(self, prompts: Sequence[str]) -> Text:
        padded = [pad_text(encoder.encode(list(prompts))) for encoder in self._encoders]
        return [(embedding.to(self._device), mask.to(self._device)) for embedding, mask in padded]
