"""What a finished stage leaves behind: whole weights, and a description to generate from and to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import to_plain
from lingen.model.denoiser import Denoiser
from lingen.text.encoders import TextEncoderConfig
from lingen.train.ema import EMA


def describe(
    stage: str, preset: str, shards: ShardIndex, text: Sequence[TextEncoderConfig], prompts: Sequence[str]
) -> dict[str, Any]:
    """What config.json says beside the architecture, so that a model can be generated from and trained on.

    Args: shards, the buckets it was trained on, of one resolution; text, settings of their encoders, in their order;
        prompts, sample prompts (the first is what generating takes when it is given none).
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
    """A model goes on training only on what it was trained on: latents of the same TAE, text of the same encoders.

    Raises:
        ValueError: it was trained on others; names `init`, the model's folder, and both.
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


def whole_weights(model: Denoiser, ema: EMA) -> tuple[dict, dict]:
    """(raw, averaged) unsharded state dictionaries; called by every rank."""

    def whole(tensor):
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    raw = {name: whole(p.detach()) for name, p in model.named_parameters()}
    return raw, {name: whole(p) for name, p in ema.weights.items()}
