"""From a recipe to the stages that `lingen.plan` takes: shapes, text encoders, and the samples that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.encode.config import EncodeConfig
from lingen.data.buckets import bucket_set
from lingen.data.selection import select
from lingen.data.shard_index import ShardIndex
from lingen.model.presets import preset
from lingen.plan.stage_plan import PlannedStage
from lingen.plan.supplies import IMAGES, VIDEOS
from lingen.text.encoders import TextEncoderConfig, parse_text_encoders
from pipelines.recipes import Recipe, TrainStage

CLIP_TOKENS = 77
"""context length of CLIP's text towers"""
_WIDTHS = {
    "lingen-tiny": 128,
    "lingen-byt5-tiny": 64,
    "ViT-B": 512,
    "ViT-L": 768,
    "ViT-H": 1024,
    "ViT-g": 1024,
    "ViT-bigG": 1280,
    "byt5-small": 1472,
    "byt5-base": 1536,
    "byt5-large": 1536,
    "byt5-xl": 2560,
    "ul2": 4096,
    "t5-v1_1-xxl": 4096,
}
"""Beginning or end of an encoder's name -> width of its embeddings; the plan loads no encoder."""
_FALLBACK_WIDTH = 1024


def planned_stages(recipe: Recipe, shards: Path | None = None, curated: Path | None = None) -> list[PlannedStage]:
    """The stages of a recipe.

    Args:
        shards: encoded folder; its buckets, text widths and numbers of samples then count.
        curated: curated folder; its kept clips then count.

    Raises:
        ValueError: the shards lack a stage's buckets, or a folder is not one of these.
    """
    text = text_of(recipe.encode)
    clips = None if curated is None else kept_clips(curated)
    return [_planned(stage, text, shards, clips) for stage in recipe.stages]


def _planned(
    stage: TrainStage,
    text: tuple[tuple[int, int], ...],
    shards: Path | None,
    clips: Sequence[tuple[str, float]] | None,
) -> PlannedStage:
    fps = EncodeConfig.fps
    if shards is not None:
        index = ShardIndex.open(shards).select("image" if stage.frames == 1 else None, stage.resolution, stage.frames)
        train, _ = select(index, stage.fit.held_out)
        return of_shards(stage, train, text)
    there = None
    if clips is not None:
        seconds = 0.0 if stage.frames == 1 else stage.frames / fps
        videos = sum(media == "video" and length >= seconds for media, length in clips)
        there = {IMAGES: sum(media == "image" for media, _ in clips), VIDEOS: videos}
    return PlannedStage(
        name=stage.name,
        architecture=preset(stage.preset),
        fit=stage.fit,
        buckets=tuple(bucket_set(stage.resolution, EncodeConfig.aspect_ratios, [stage.frames])),
        fps=fps,
        text=text,
        there=there,
    )


def of_shards(stage: TrainStage, train: ShardIndex, text: tuple[tuple[int, int], ...]) -> PlannedStage:
    """A stage on shards that are there.

    Args:
        train: the samples that it trains on.
        text: (tokens, width) of the recipe's encoders; the shards' widths replace these.
    """
    tokens = [t for t, _ in text] if len(text) == len(train.text_dims) else [CLIP_TOKENS] * len(train.text_dims)
    longest = max(bucket.bucket.frames for bucket in train.buckets.values())
    return PlannedStage(
        name=stage.name,
        architecture=preset(stage.preset),
        fit=stage.fit,
        buckets=tuple(b.bucket for b in train.buckets.values() if b.bucket.frames == longest),
        fps=train.format.fps,
        text=tuple(zip(tokens, train.text_dims)),
        there={name: len(bucket) for name, bucket in train.buckets.items()},
    )


def text_of(flags: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """(tokens, width) of the text encoders that flags of jobs/encode.py name, or of its default one."""
    specs: list[str] = []
    reading = False
    for word in flags:
        if word.startswith("--"):
            reading = word == "--text"
        elif reading:
            specs.append(word)
    encoders = parse_text_encoders(specs or EncodeConfig.text)
    return tuple(map(_size_of, encoders.values()))


def _size_of(encoder: TextEncoderConfig) -> tuple[int, int]:
    name = Path(encoder.model).name
    found = [width for known, width in _WIDTHS.items() if name.startswith(known) or name.endswith(known)]
    tokens = encoder.max_tokens if encoder.family == "t5" else CLIP_TOKENS
    return tokens, found[-1] if found else _FALLBACK_WIDTH


def kept_clips(curated: Path) -> list[tuple[str, float]]:
    """(medium, seconds) of every clip that curation kept.

    Raises:
        ValueError: the folder is not a finished one of jobs/curate.py.
    """
    import pyarrow.parquet as pq

    path = curated / "clips.parquet"
    if not path.exists():
        raise ValueError(f"--curated: {curated} has no clips.parquet; give an output folder of jobs/curate.py")
    table: Mapping[str, list] = pq.read_table(path, columns=["media_type", "start_s", "end_s"]).to_pydict()
    rows = zip(table["media_type"], table["start_s"], table["end_s"])
    return [(medium, (end or 0.0) - (start or 0.0) if medium == "video" else 0.0) for medium, start, end in rows]
