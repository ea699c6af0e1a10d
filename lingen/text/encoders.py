"""Text encoders: captions in, one embedding per text token out.

The denoiser takes any number of them side by side (the paper's line uses three). Here: the text tower of any open_clip
model that reads CLIP's tokens, all tokens rather than the pooled one. T5, UL2 and ByT5 are in lingen/text/t5.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from lingen.text.open_clip import build_open_clip
from lingen.text.t5 import build_t5

FAMILIES = ("open_clip", "t5")
OPTIONS = {"pretrained": str, "family": str, "max_tokens": int, "seed": int}


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


def build_text_encoder(config: TextEncoderConfig, device: str | torch.device = "cpu") -> TextEncoder:
    """Build the encoder; no network unless `pretrained` is a tag, or `model` a hub name of a T5.

    Raises:
        ValueError: an unknown model, a tag or file that is not there, a model with another tokenizer than CLIP's, or a
            package that is missing.
    """
    device = torch.device(device)
    if config.family == "t5":
        return build_t5(config.model, config.seed, config.max_tokens, device)
    return build_open_clip(config.model, config.pretrained, config.seed, device)
