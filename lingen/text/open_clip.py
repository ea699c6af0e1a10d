"""The text tower of an open_clip model: all tokens, not the pooled one.

Letters: B batch, L text tokens, E embedding width.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lingen.io.tensors import refusal
from lingen.text.digests import weights_digest

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import TextTransformer

log = logging.getLogger(__name__)

OWN_MODELS = {"lingen-tiny": Path(__file__).with_name("lingen-tiny.json")}
"""They have no weights to load: random ones are meant."""
BATCH = 256
RANDOM_WEIGHTS_SAID = "LINGEN_RANDOM_WEIGHTS_SAID"
"""Environment variable: the user has been told of the random weights, by an earlier job of the same workflow."""


class OpenCLIPText:
    """The text tower of an open_clip model; attributes as in lingen.text.encoders.TextEncoder.

    Args:
        tower: open_clip's TextTransformer.
        tokenizer: CLIP's, from open_clip.
        name: of the encoder.
        device: where it runs.
        config: open_clip's configuration of the model, for the digest.
    """

    def __init__(
        self,
        tower: TextTransformer,
        tokenizer: SimpleTokenizer,
        name: str,
        device: torch.device,
        config: dict[str, Any],
    ):
        self._tower = tower.eval().requires_grad_(False).to(device)
        self._tower.output_tokens = True
        self._tokenizer = tokenizer
        self._device = device
        self.name = name
        self.dim: int = tower.width
        self.context_length: int = tower.context_length
        self.digest = weights_digest(tower, config)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Embed captions: one float32 CPU tensor (L_i, E) per caption, start to end token, after the final LayerNorm.

        A caption longer than the context (77 tokens for CLIP, including start and end) is cut, but keeps its end token.
        """
        out: list[Tensor] = []
        for start in range(0, len(captions), BATCH):
            ids_BL = self._tokenizer(list(captions[start : start + BATCH]), context_length=self.context_length)
            lengths = (ids_BL == self._tokenizer.eot_token_id).int().argmax(dim=1) + 1
            _, tokens_BLE = self._tower(ids_BL.to(self._device))
            out += [tokens[:n].float().cpu().clone() for tokens, n in zip(tokens_BLE, lengths.tolist())]
        return out


def build_open_clip(model: str, pretrained: str | None, seed: int, device: torch.device) -> OpenCLIPText:
    """Build the text tower of an open_clip model; uses the network only if `pretrained` is a tag.

    Args:
        model: an open_clip model name, or lingen-tiny.
        pretrained: checkpoint file or tag; None: random weights.
        seed: of the random weights.
        device: where it runs.

    Raises:
        ValueError: the model, tag or file is unknown, or the model's tokenizer is not CLIP's.
    """
    import open_clip

    if model in OWN_MODELS:
        open_clip.add_model_config(OWN_MODELS[model])
    if model not in open_clip.list_models():
        raise ValueError(f"--text: {model!r} is unknown; use lingen-tiny or a name of open_clip.list_models()")
    if pretrained and not Path(pretrained).is_file():
        tags = open_clip.list_pretrained_tags_by_model(model)
        if pretrained not in tags:
            raise ValueError(
                f"--text: pretrained={pretrained} is neither a file nor a tag of {model}; "
                f"its tags are {', '.join(tags) or 'none'}"
            )
    architecture = open_clip.get_model_config(model)
    if architecture["text_cfg"].keys() & {"hf_tokenizer_name", "hf_model_name"}:
        raise ValueError(f"--text: {model} does not use CLIP's tokenizer; choose a model that does")
    tokenizer = open_clip.get_tokenizer(model)
    random = model in OWN_MODELS and not pretrained
    with torch.random.fork_rng(devices=[]), _random_weights_meant() if random else contextlib.nullcontext():
        torch.manual_seed(seed)
        try:
            clip = open_clip.create_model(model, pretrained=pretrained, force_custom_text=True, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"--text: pretrained={pretrained} {refusal(error)}") from error
    if random:
        _say_random_weights(model)
    weights = pretrained or f"random weights, seed {seed}"
    name = f"open_clip/{model}, {weights}"
    return OpenCLIPText(clip.text, tokenizer, name, device, architecture)


@contextlib.contextmanager
def _random_weights_meant() -> Iterator[None]:
    """Drop open_clip's warning that no pretrained weights were loaded; whatever else it logs is shown."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded for model")

    root = logging.getLogger()  # open_clip logs to the root
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


@functools.cache
def _say_random_weights(model: str) -> None:
    """Say once in a process, and once in a workflow, that the weights are random."""
    if not os.environ.get(RANDOM_WEIGHTS_SAID):
        log.info(
            "text tower %s has random weights, on purpose: each word is a fixed random code, enough for a small model "
            "to learn from; real training needs --text MODEL,pretrained=WEIGHTS",
            model,
        )
