"""What a finished stage exports: its weights, and the description that generation and later stages need."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import to_plain
from lingen.model.denoiser import Denoiser
from lingen.model.pretrained import export_model
from lingen.text.encoders import TextEncoderConfig
from lingen.train.ema import EMA
from lingen.train.ranks import whole


def describe(
    stage: str, preset: str, shards: ShardIndex, text: Sequence[TextEncoderConfig], prompts: Sequence[str]
) -> dict[str, Any]:
    """Content of config.json beside the architecture: what generating and further training need to know.

    Args:
        stage: name of the stage.
        preset: name of the architecture.
        shards: the buckets that the model was trained on, of one resolution.
        text: settings of the shards' text encoders, in their order.
        prompts: sample prompts; the first is generation's default.
    """
    largest = max(shards.buckets.values(), key=lambda b: (b.bucket.frames, len(b)))
    return {
        "stage": stage,
        "preset": preset,
        "resolution": largest.format.resolution,
        "frames": largest.bucket.frames,
        "fps": shards.format.fps,
        "bucket": largest.bucket.name,
        "latent_shape": list(largest.latent_shape),
        "tae_digest": shards.format.tae_digest,
        "text": to_plain(list(text)),
        "text_names": shards.text_names,
        "text_digests": shards.text_digests,
        "prompts": list(prompts),
    }


def check_same_latents(about: dict[str, Any], shards: ShardIndex, init: str | Path) -> None:
    """Check that a model can be trained further on these shards: the same TAE, the same text encoders.

    Args:
        about: the model's config.json.
        shards: what it is to be trained on.
        init: the model's folder.

    Raises:
        ValueError: it was trained on others; the message names `init` and both.
    """
    if about["tae_digest"] != shards.format.tae_digest:
        raise ValueError(
            f"--init: {init} was trained on latents of TAE {about['tae_digest']}, "
            f"these shards come from TAE {shards.format.tae_digest}"
        )
    if about["text_digests"] != shards.text_digests:
        raise ValueError(
            f"--init: {init} was trained with text encoders {', '.join(about['text_names'])}, "
            f"these shards have {', '.join(shards.text_names)}; see jobs/retext.py"
        )


def export_stage(folder: Path, model: Denoiser, ema: EMA, about: dict[str, Any], tae: Path) -> None:
    """Write the model folder of a sharded model; called by every rank, written by rank 0.

    One tensor is whole at a time, on its way to the file.

    Args:
        folder: where the model goes.
        about: what `describe` returned.
        tae: folder of the TAE, which is copied.
    """
    raw = {name: p.detach() for name, p in model.named_parameters()}
    gathered = (whole(weights[name]) for weights in (raw, ema.weights) for name in sorted(weights))
    try:
        if dist.get_rank() == 0:
            export_model(folder, raw, ema.weights, model.config, about, tae, gather=lambda _: next(gathered))
    finally:  # the other ranks take part in every gathering, even when the disk is full
        deque(gathered, maxlen=0)
