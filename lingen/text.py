"""Text encoders: captions in, one embedding per text token out.

The denoiser takes any number of them side by side (the paper's line uses three). Here: the text tower of any open_clip
model that reads CLIP's tokens, all tokens rather than the pooled one. T5, UL2 and ByT5 are in lingen/t5.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

OWN_MODELS = {"lingen-tiny": Path(__file__).with_name("lingen-tiny.json")}
FAMILIES = ("open_clip", "t5")
OPTIONS = {"pretrained": str, "family": str, "max_tokens": int, "seed": int}
BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Which text encoder, with which weights."""

    model: str = "ViT-B-32"
    """An open_clip model name, or lingen-tiny (128 wide, for tests and the demo)."""
    pretrained: str | None = None
    """A checkpoint file or an open_clip tag (a tag downloads). None: random weights, and the encoder's name says so."""
    seed: int = 0
    """Seed of the random weights."""
    family: Literal["open_clip", "t5"] = "open_clip"
    """t5: `model` is a local folder or a hub name (which downloads) of a T5, UL2 or ByT5 model."""
    max_tokens: int = 256
    """Where t5 cuts captions; open_clip models have a context length of their own."""


def parse_text_encoders(specs: Sequence[str]) -> dict[str, TextEncoderConfig]:
    """Name -> settings of the encoders that a command line asks for, sorted by name.

    A spec is [NAME=]MODEL[,OPTION=VALUE ...], with TextEncoderConfig's other fields as options; the name, a folder's
    later, defaults to the model's last part.

    Raises:
        ValueError: no encoder, two of one name, or a spec that cannot be read.
    """
    found: dict[str, TextEncoderConfig] = {}
    for spec in specs:
        head, *options = spec.split(",")
        name, named, model = head.partition("=")
        if not named:
            name, model = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(head).name).strip("-"), head
        if not model or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(
                f"--text: {spec!r} is not like clip=ViT-L-14,pretrained=WEIGHTS (a name has letters, - and _)"
            )
        if name in found:
            raise ValueError(f"--text: two encoders are called {name}; write NAME=MODEL to tell them apart")
        found[name] = TextEncoderConfig(model=model, **dict(_option(spec, text) for text in options))
    if not found:
        raise ValueError("--text: name at least one encoder")
    return dict(sorted(found.items()))


def _option(spec: str, text: str) -> tuple[str, str | int]:
    name, _, value = text.partition("=")
    if name not in OPTIONS or not value:
        raise ValueError(f"--text: {text!r} in {spec!r} is no option; use {', '.join(f'{o}=...' for o in OPTIONS)}")
    if name == "family" and value not in FAMILIES:
        raise ValueError(f"--text: family={value} in {spec!r} is unknown; use {' or '.join(FAMILIES)}")
    if OPTIONS[name] is str:
        return name, value
    if not value.isdecimal():
        raise ValueError(f"--text: {text!r} in {spec!r} wants a whole number")
    return name, int(value)


class TextEncoder(Protocol):
    """What `build_text_encoder` returns.

    Fields: dim, width of the embeddings; name, what it is and where its weights come from; digest, 16 hex digits over
    weights and configuration, equal exactly when the embeddings are; context_length, tokens after which a caption is
    cut.
    """

    dim: int
    name: str
    digest: str
    context_length: int

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """One float32 CPU tensor (L_i, dim) per caption, up to and including the end mark."""


class OpenCLIPText:
    """The text tower of an open_clip model; a TextEncoder."""

    def __init__(self, tower, tokenizer, name: str, device: torch.device, config: dict):
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
        """One float32 CPU tensor (L_i, dim) per caption: start-of-text to end-of-text, after the final LayerNorm.

        A caption longer than the context (77 tokens for CLIP, the two marks included) is cut; its last token is then
        still the end mark.
        """
        out: list[Tensor] = []
        for start in range(0, len(captions), BATCH):
            ids_BL = self._tokenizer(list(captions[start : start + BATCH]), context_length=self.context_length)
            lengths = (ids_BL == self._tokenizer.eot_token_id).int().argmax(dim=1) + 1
            _, tokens_BLD = self._tower(ids_BL.to(self._device))
            out += [tokens[:n].float().cpu().clone() for tokens, n in zip(tokens_BLD, lengths.tolist())]
        return out


def build_text_encoder(config: TextEncoderConfig, device: str | torch.device = "cpu") -> TextEncoder:
    """Build the encoder; no network unless `pretrained` is a tag, or `model` a hub name of a T5.

    Raises:
        ValueError: an unknown model, a tag or file that is not there, a model with another tokenizer than CLIP's, or a
            package that is missing.
    """
    if config.family == "t5":
        from lingen.t5 import build_t5

        return build_t5(config.model, config.seed, config.max_tokens, torch.device(device))
    import open_clip

    if config.model in OWN_MODELS:
        open_clip.add_model_config(OWN_MODELS[config.model])
    if config.model not in open_clip.list_models():
        raise ValueError(f"--text: {config.model!r} is unknown; use lingen-tiny or a name of open_clip.list_models()")
    if config.pretrained and not Path(config.pretrained).is_file():
        tags = open_clip.list_pretrained_tags_by_model(config.model)
        if config.pretrained not in tags:
            raise ValueError(
                f"--text: pretrained={config.pretrained} is neither a file nor a tag of {config.model}; "
                f"its tags are {', '.join(tags) or 'none'}"
            )
    architecture = open_clip.get_model_config(config.model)
    if architecture["text_cfg"].keys() & {"hf_tokenizer_name", "hf_model_name"}:
        raise ValueError(f"--text: {config.model} does not read CLIP's tokens; choose a model that does")
    tokenizer = open_clip.get_tokenizer(config.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = open_clip.create_model(config.model, pretrained=config.pretrained, force_custom_text=True)
    weights = config.pretrained or f"random weights, seed {config.seed}"
    name = f"open_clip/{config.model}, {weights}"
    return OpenCLIPText(model.text, tokenizer, name, torch.device(device), architecture)


def pad_text(embeddings_LD: Sequence[Tensor], drop: Sequence[bool] | None = None) -> tuple[Tensor, Tensor]:
    """One encoder's embeddings as embedding_BLD (zero where padded) and mask_BL (True on tokens).

    Rows named by `drop` are all zero and all False: the denoiser reads them as "no text".
    """
    drop = drop or [False] * len(embeddings_LD)
    longest = max(e.shape[0] for e in embeddings_LD)
    embedding_BLD = torch.zeros(len(embeddings_LD), longest, embeddings_LD[0].shape[1])
    mask_BL = torch.zeros(len(embeddings_LD), longest, dtype=torch.bool)
    for row, (embedding_LD, dropped) in enumerate(zip(embeddings_LD, drop)):
        if not dropped:
            embedding_BLD[row, : len(embedding_LD)] = embedding_LD
            mask_BL[row, : len(embedding_LD)] = True
    return embedding_BLD, mask_BL


def weights_digest(model: torch.nn.Module, config: dict) -> str:
    """16 hex digits over every weight, and over the settings that the weights do not show (activation, context)."""
    h = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        h.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        h.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return h.hexdigest()[:16]
