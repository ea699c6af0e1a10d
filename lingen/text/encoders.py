"""Text encoders: one embedding per text token of a caption.

The denoiser takes any number of encoders side by side (Movie Gen uses three). Two families: the text tower of open_clip
models (lingen/text/open_clip.py), and T5, UL2 and ByT5 (lingen/text/t5.py).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lingen.text.open_clip import build_open_clip
from lingen.text.t5 import build_t5

FAMILIES = ("open_clip", "t5")
OPTIONS = {"pretrained": str, "family": str, "max_tokens": int, "seed": int}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """A text encoder and its weights."""

    model: str = "ViT-B-32"
    """An open_clip model name, or lingen-tiny (128 wide, for tests and the demo)."""
    pretrained: str | None = None
    """A checkpoint file or an open_clip tag (tags are downloaded). None: random weights, as the encoder's name says."""
    seed: int = 0
    """Seed of the random weights."""
    family: Literal["open_clip", "t5"] = "open_clip"
    """t5: `model` is a local folder or a hub name (which is downloaded) of a T5, UL2 or ByT5 model."""
    max_tokens: int = 256
    """Tokens after which t5 cuts a caption; open_clip models have a fixed context length."""


def parse_text_encoders(specs: Sequence[str]) -> dict[str, TextEncoderConfig]:
    """Parse the text encoders of a command line.

    Args:
        specs: each [NAME=]MODEL[,OPTION=VALUE ...], with the other fields of TextEncoderConfig as options. NAME names
            the folder of the embeddings and defaults to the last part of MODEL.

    Returns:
        Name -> settings, sorted by name.

    Raises:
        ValueError: there is no encoder, two have the same name, or a spec is malformed.
    """
    found: dict[str, TextEncoderConfig] = {}
    for spec in specs:
        head, *options = spec.split(",")
        name, named, model = head.partition("=")
        if not named:
            name, model = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(head).name).strip("-"), head
        if not model or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(
                f"--text: {spec!r} is not like clip=ViT-L-14,pretrained=WEIGHTS (names have letters, digits, - and _)"
            )
        if name in found:
            raise ValueError(f"--text: two encoders are called {name}; write NAME=MODEL to tell them apart")
        settings: dict[str, Any] = dict(_option(spec, option) for option in options)
        found[name] = TextEncoderConfig(model=model, **settings)
    if not found:
        raise ValueError("--text: name at least one encoder")
    return dict(sorted(found.items()))


def _option(spec: str, option: str) -> tuple[str, str | int]:
    """Parse OPTION=VALUE; errors quote the whole spec."""
    name, _, value = option.partition("=")
    if name not in OPTIONS or not value:
        choices = ", ".join(f"{name}=..." for name in OPTIONS)
        raise ValueError(f"--text: {option!r} in {spec!r} is not an option; use {choices}")
    if name == "family" and value not in FAMILIES:
        raise ValueError(f"--text: family={value} in {spec!r} is unknown; use {' or '.join(FAMILIES)}")
    if OPTIONS[name] is str:
        return name, value
    if not value.isdecimal():
        raise ValueError(f"--text: {option!r} in {spec!r} needs a whole number")
    return name, int(value)


class TextEncoder(Protocol):
    """A text encoder, as returned by `build_text_encoder`."""

    dim: int
    """Width of the embeddings."""
    name: str
    """The model and the source of its weights."""
    digest: str
    """16 hex digits over weights and configuration; equal exactly when the embeddings are."""
    context_length: int
    """Tokens after which a caption is cut."""

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Embed captions: one float32 CPU tensor (L_i, dim) per caption, up to and including the end token."""


def build_text_encoder(config: TextEncoderConfig, device: str | torch.device = "cpu") -> TextEncoder:
    """Build an encoder; uses the network only if `pretrained` is a tag, or `model` the hub name of a T5.

    Args:
        config: which encoder.
        device: where it runs.

    Raises:
        ValueError: the model, tag or file is unknown, the model's tokenizer is not CLIP's, or a package is missing.
    """
    device = torch.device(device)
    if config.family == "t5":
        return build_t5(config.model, config.seed, config.max_tokens, device)
    return build_open_clip(config.model, config.pretrained, config.seed, device)
