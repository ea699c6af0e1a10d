"""Encoding: curated clips to shards of latents and text embeddings, on Ray Data.

1. Windows and shards are planned from clips.parquet (data_prep/encode/segments.py): the same input, the same plan.
2. Actors with the TAE write the missing latent shards (data_prep/encode/latents.py), each published by a rename.
3. The latent indexes are merged from the shards' parts.
4. Per text encoder, actors write its text shards from the latent shards' captions, and their indexes are merged.
5. manifest.json is written last. Killed at any point, the same command goes on with the missing shards.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from data_prep.encode.latents import LatentSettings, LatentWorker
from data_prep.encode.parts import is_done, read_part, remove_parts
from data_prep.encode.pool import EncodeWorkers, pool_size, run_shards, torch_threads
from data_prep.encode.segments import ShardPlan, plan_shards, plan_windows
from data_prep.encode.summary import BucketSummary, EncodeSummary, canary_alarms, stage_warnings, stages_of
from data_prep.encode.texts import Encoders, write_text
from data_prep.ray_cluster import connect
from lingen.data.shard_index import INDEX, LatentFormat, write_index
from lingen.io.manifest import OutputFolder, file_digest, require_manifest, to_plain
from lingen.io.progress import Progress
from lingen.model.stages import ALL_STAGES
from lingen.tae.pretrained import load_tae, save_tae
from lingen.tae.tiling import TilingConfig
from lingen.text.encoders import TextEncoderConfig, build_text_encoder, parse_text_encoders

log = logging.getLogger(__name__)

CLIPS = "clips.parquet"
COLUMNS = ["clip_id", "uri", "content_hash", "media_type", "start_s", "end_s", "width", "height"]
COLUMNS += ["caption", "license", "source", "attribution"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Encode curated clips to latent shards."""

    curated: Path
    """Output folder of jobs/curate.py."""
    output: Path
    """Folder for the shards."""
    tae: Path
    """Folder of a TAE checkpoint (jobs/train_tae.py), or diffusers:PATH_OR_HUB_NAME[#subfolder] for a public one."""
    stages: tuple[str, ...] = ()
    """Stages to encode for (t2v_256p_17s ...): they set resolutions and lengths."""
    resolution: int = 256
    """Area of a picture is resolution squared; a multiple of 16."""
    frames: tuple[int, ...] = (272,)
    """Lengths of the video samples, in frames."""
    images: bool = True
    """Encode the images too (video stages train on both)."""
    fps: float = 16.0
    """Frames per second that videos are sampled at."""
    aspect_ratios: tuple[str, ...] = ("1:1", "16:9", "9:16", "4:3", "3:4")
    """Shapes, width:height; a clip goes to the nearest and is cut to it from the centre."""
    max_windows_per_clip: int = 4
    """Samples from one clip at each length."""
    serve_shorter: bool = False
    """A clip long enough for the longest length gives samples of every shorter one too."""
    max_upscale: float = 1.25
    """Leave out clips that would have to be enlarged more than this."""
    text: Encoders = ("ViT-B-32",)
    """Text encoders for the captions. ENCODER is [NAME=]MODEL[,OPTION=VALUE ...]: lingen-tiny, or
    clip=ViT-L-14,pretrained=WEIGHTS byt5=google/byt5-small,family=t5. Options: pretrained, family, max_tokens, seed."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Stored type of latents and text embeddings."""
    shard_mb: float = 256.0
    """Size of a shard in megabytes."""
    canaries: int = 2
    """Samples per shard that are decoded again; their PSNR is in the index."""
    min_psnr: float = 15.0
    """Alarm when a canary falls below, in dB (or 10 dB under its bucket's median)."""
    batch_frames: int = 64
    """Short windows are encoded together, as many as have so many frames."""
    tiling: TilingConfig = dataclasses.field(default_factory=TilingConfig)
    """How windows go through the TAE piece by piece."""
    decode_cpus: float = 0.5
    """CPUs reserved per process that reads frames."""
    decode_timeout_s: float = 600.0
    """A window whose frames take longer becomes an error row."""
    workers: EncodeWorkers = dataclasses.field(default_factory=EncodeWorkers)
    """The encoding workers."""
    overwrite: bool = False
    """Replace a folder that was made with other settings."""

    def __post_init__(self):
        parse_text_encoders(self.text)
        for name in self.stages:
            if name not in ALL_STAGES:
                raise ValueError(f"--stages: {name!r} is unknown; use {', '.join(ALL_STAGES)}")
        if not self.stages and not self.images and not self.frames:
            raise ValueError("--frames: nothing to encode without frames and images; give a length or --images")
        for field in ("fps", "max_windows_per_clip", "max_upscale", "shard_mb", "decode_timeout_s"):
            if getattr(self, field) <= 0:
                raise ValueError(f"--{field.replace('_', '-')}: {getattr(self, field)} must be more than 0")
        if min(self.frames, default=2) < 2:
            raise ValueError(f"--frames: {min(self.frames)} is no video; images are asked for by --images")
        if not self.aspect_ratios:
            raise ValueError("--aspect-ratios: give at least one, such as 16:9")

    def groups(self) -> dict[int, set[int]]:
        """Resolution -> wanted lengths (1: images)."""
        if not self.stages:
            return {self.resolution: set(self.frames) | ({1} if self.images else set())}
        groups: dict[int, set[int]] = {}
        for stage in map(ALL_STAGES.get, self.stages):
            groups.setdefault(stage.resolution, {1} if self.images else set()).add(stage.frames)
        return groups

    def content(self) -> dict:
        """What decides the output's content: everything but paths and resources."""
        skip = {"curated", "output", "tae", "workers", "overwrite", "decode_cpus", "tiling"}
        return {k: v for k, v in to_plain(self).items() if k not in skip}


def encode(config: EncodeConfig) -> EncodeSummary:
    """Run the job. A finished folder of the same settings is left as it is.

    Raises:
        ValueError: bad configuration, before any work; or not one sample could be made.
    """
    started = time.time()
    require_manifest(config.curated, "curate", "--curated")
    clips = read_clips(Path(config.curated, CLIPS))
    tae, encoders = load_tae(config.tae), parse_text_encoders(config.text)
    plans, unused, leftover_s = plan(config, clips, tae.latent_shape)
    inputs = {"curated": file_digest(Path(config.curated, CLIPS)), "tae": tae.digest, "text": text_digests(encoders)}
    folder = OutputFolder.open(config.output, "encode", config.content(), inputs, overwrite=config.overwrite)
    if folder.finished:
        return EncodeSummary.of_folder(folder.path)
    _remove_partial_files(folder.path)
    save_tae(tae, folder.path / "tae")  # latents are worth nothing without their decoder

    connect()
    pool_size(config.workers)
    planned = stages_of(config.stages, config.groups(), [BucketSummary.of_plan(*p) for p in plans])
    for warning in stage_warnings(planned, config.serve_shorter):  # known now, not only after hours of encoding
        log.warning("%s", warning)
    shards = [s for _, bucket_shards in plans for s in bucket_shards]
    _encode_latents(config, shards)
    buckets, errors = _merge_latents(config, tae, plans)
    _write_errors(folder.path, errors)
    if not buckets:
        raise ValueError(
            f"--curated: not one sample could be made of {len(clips)} clips; see {folder.path}/errors.parquet"
        )
    for name, encoder in encoders.items():
        write_text(folder.path, [b.name for b in buckets], name, encoder, config.dtype, config.workers)
    stages = stages_of(config.stages, config.groups(), buckets)
    summary = EncodeSummary(
        buckets=buckets,
        stages=stages,
        errors=dict(Counter(e["reason"] for e in errors)),
        unused=dict(unused),
        leftover_hours=leftover_s / 3600,
        warnings=[*canary_alarms(config.min_psnr, buckets), *stage_warnings(stages, config.serve_shorter)],
        seconds=time.time() - started,
    )
    folder.publish(index_digests(folder.path) | {"summary": dataclasses.asdict(summary)}, started)
    remove_parts(folder.path)
    return summary


def text_digests(encoders: dict[str, TextEncoderConfig]) -> dict[str, str]:
    """Name -> digest; each encoder is built for it, one after the other. ValueError when one cannot be."""
    return {name: build_text_encoder(encoder).digest for name, encoder in encoders.items()}


def index_digests(output: Path) -> dict[str, str]:
    """Relative path of every index -> digest; through the checksums in it, of every sample."""
    return {str(p.relative_to(output)): file_digest(p) for p in sorted(output.rglob(INDEX))}


def read_clips(path: Path) -> list[dict]:
    """Rows of clips.parquet with the columns that encoding needs."""
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"--curated: {path} is missing; run jobs/curate.py again")
    missing = set(COLUMNS) - set(pq.read_schema(path).names)
    if missing:
        raise ValueError(f"--curated: {path} has no column {', '.join(sorted(missing))}; run jobs/curate.py again")
    return pq.read_table(path, columns=COLUMNS).to_pylist()


def plan(
    config: EncodeConfig, clips: list[dict], latent_shape: Callable[[int, int, int], Sequence[int]]
) -> tuple[list, Counter, float]:
    """((resolution, shards) per bucket, reason -> clips unused, seconds of video in no window).

    Args: latent_shape, of a sample of so many frames, height and width (the TAE's).
    """
    plans, unused, leftover_s = [], Counter(), 0.0
    for resolution, lengths in config.groups().items():
        found = plan_windows(
            clips,
            resolution=resolution,
            frames=sorted(lengths),
            fps=config.fps,
            aspect_ratios=config.aspect_ratios,
            max_windows_per_clip=config.max_windows_per_clip,
            max_upscale=config.max_upscale,
            serve_shorter=config.serve_shorter,
        )
        unused.update({f"{resolution}p: {reason}": n for reason, n in found.unused.items()})
        leftover_s += found.leftover_s
        for bucket, windows in found.windows.items():
            if windows:
                shape = latent_shape(bucket.frames, bucket.height, bucket.width)
                plans.append((resolution, plan_shards(bucket, windows, shape, config.dtype, config.shard_mb)))
    if not plans:
        why = "; ".join(f"{n} {reason}" for reason, n in unused.items()) or "it keeps none"
        raise ValueError(
            f"--curated: no clip of {config.curated} gives a sample ({why}); change --frames or --resolution"
        )
    return plans, unused, leftover_s


def _encode_latents(config: EncodeConfig, shards: list[ShardPlan]) -> None:
    missing = [s for s in shards if not is_done(config.output, "latents", s.bucket, s.name)]
    total = sum(len(s.windows) for s in shards)
    progress = Progress("latents", total, "samples", done=total - sum(len(s.windows) for s in missing))
    rows = [{"shard": s.to_json()} for s in missing]
    run_shards(LatentWorker, latent_settings(config), rows, config.workers, progress)


def latent_settings(config: EncodeConfig) -> LatentSettings:
    return LatentSettings(
        output=str(Path(config.output).absolute()),
        tae=str(Path(config.output, "tae").absolute()),
        dtype=config.dtype,
        batch_frames=config.batch_frames,
        tiling=config.tiling,
        canaries=config.canaries,
        decode_cpus=config.decode_cpus,
        decode_timeout_s=config.decode_timeout_s,
        device=config.workers.device,
        threads=torch_threads(config.workers),
    )


def _merge_latents(config: EncodeConfig, tae, plans) -> tuple[list[BucketSummary], list[dict]]:
    """Write the latent indexes; (a summary per bucket that has samples, all error rows)."""
    buckets, errors = [], []
    for resolution, shards in plans:
        parts = [read_part(config.output, "latents", s.bucket, s.name) for s in shards]
        rows = [row for part in parts for row in part["rows"]]
        errors += [row for part in parts for row in part["errors"]]
        if not rows:
            continue
        name = shards[0].bucket
        form = LatentFormat(
            bucket=name,
            resolution=resolution,
            fps=config.fps,
            dtype=config.dtype,
            tae_digest=tae.digest,
            scale=tae.scale.tolist(),
            shift=tae.shift.tolist(),
        )
        write_index(Path(config.output, "latents", name, INDEX), rows, form)
        buckets.append(BucketSummary.of_rows(name, resolution, rows))
    return buckets, errors


def _write_errors(output: Path, errors: list[dict]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("key", "clip_id", "uri", "bucket", "reason", "detail")
    table = pa.Table.from_pylist(errors, schema=pa.schema([(name, pa.string()) for name in names]))
    pq.write_table(table, output / "errors.parquet")


def _remove_partial_files(output: Path) -> None:
    """What a killed run was writing."""
    for tree in ("latents", "text"):
        for path in Path(output, tree).rglob(".*.tar.*"):
            path.unlink(missing_ok=True)
