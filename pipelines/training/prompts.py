"""The prompts of sample videos, embedded once, so that training workers need no text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import write_atomic
from lingen.text.encoders import TextEncoderConfig, build_text_encoder
from lingen.text.padding import pad_text

PROMPTS = "prompts.safetensors"


def write_prompts(path: Path, prompts: tuple[str, ...], text: Sequence[TextEncoderConfig], shards: ShardIndex) -> None:
    """Write the embeddings of the sample prompts.

    Args:
        path: the file to write.
        text: settings of each encoder, in the order of the shards' text formats.
        shards: made with these encoders.

    Raises:
        ValueError: an encoder built from the shards' settings is not the one that made the shards.
    """
    tensors = {}
    for i, (settings, form) in enumerate(zip(text, shards.text_format, strict=True)):
        encoder = build_text_encoder(settings)
        if encoder.digest != form.digest:
            raise ValueError(
                f"--shards: made with text encoder {form.model} ({form.digest}), "
                f"but these settings build {encoder.digest}; use the same package version and weights"
            )
        tensors[f"embedding.{i}"], tensors[f"mask.{i}"] = pad_text(encoder.encode(prompts))
    write_atomic(path, save(tensors))


def read_prompts(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Read what `write_prompts` wrote: (embedding, mask) per encoder."""
    tensors = load_file(path)
    return [(tensors[f"embedding.{i}"], tensors[f"mask.{i}"]) for i in range(len(tensors) // 2)]
