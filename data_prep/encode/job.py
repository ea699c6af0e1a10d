"""Encoding: curated clips to shards of latents and text embeddings, on Ray Data.

1. Segments and shards are laid out from clips.parquet (data_prep/encode/layout.py): the same input, the same layout.
2. Actors with the TAE write the missing latent shards (data_prep/encode/latents.py), each published by a rename.
3. The latent indexes are merged from the shards' parts.
4. For each text encoder, actors embed the latent shards' captions (data_prep/encode/texts.py); the indexes are merged.
5. manifest.json is written last. Killed at any point, the same command resumes with the missing shards.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from data_prep.encode.config import EncodeConfig
from data_prep.encode.error_table import ErrorRow, write_errors
from data_prep.encode.latents import LatentSettings, LatentWorker
from data_prep.encode.layout import EncodeLayout, lay_out
from data_prep.encode.parts import forget_deaths, forget_texts, is_done, read_part, remove_parts
from data_prep.encode.pool import pool_size, run_shards, torch_threads
from data_prep.encode.segments import CLIPS, read_clips
from data_prep.encode.summary import (
    BucketSummary,
    EncodeSummary,
    canary_alarms,
    caption_warnings,
    stage_warnings,
    summarize_stages,
)
from data_prep.encode.texts import write_text
from data_prep.ray_cluster import connect
from lingen.data.index_file import INDEX, LatentFormat, write_index
from lingen.io.manifest import OutputFolder, file_digest, require_manifest
from lingen.io.progress import Progress
from lingen.tae.diffusers import DiffusersTAE
from lingen.tae.pretrained import load_tae, save_tae
from lingen.tae.tae import TAE
from lingen.text.encoders import TextEncoderConfig, build_text_encoder, parse_text_encoders

log = logging.getLogger(__name__)


def encode(config: EncodeConfig) -> EncodeSummary:
    """Run the job. A finished folder of the same settings is left as it is.

    Raises:
        ValueError: bad configuration, before any work; or no clip could be encoded.
        OurBug: many different clips in a row raised what nobody expected.
    """
    started = time.time()
    require_manifest(config.curated, "curate", "--curated")
    clips = read_clips(Path(config.curated, CLIPS))
    tae, encoders = load_tae(config.tae), parse_text_encoders(config.text)
    layout = lay_out(config, clips, tae.latent_shape)
    inputs = {"curated": file_digest(Path(config.curated, CLIPS)), "tae": tae.digest, "text": text_digests(encoders)}
    folder = OutputFolder.open(config.output, "encode", config.content(), inputs, overwrite=config.overwrite)
    if folder.finished:
        return EncodeSummary.from_folder(folder.path)

    connect()
    pool_size(config.workers)  # refuses workers that the cluster has no room for
    for warning in [*caption_warnings(layout.buckets), *_expected_warnings(config, layout)]:
        log.warning("%s", warning)
    _remove_partial_files(folder.path)
    forget_deaths(folder.path)
    save_tae(tae, folder.path / "tae")  # latents are worthless without their decoder
    _write_latents(config, layout)
    buckets, errors = _merge_latents(config, tae, layout)
    write_errors(folder.path, errors)
    if not buckets:
        raise ValueError(f"--curated: none of {len(clips)} clips could be encoded; see {folder.path}/errors.parquet")
    for name, encoder in encoders.items():
        errors += write_text(folder.path, [b.name for b in buckets], name, encoder, config.dtype, config.workers)
    write_errors(folder.path, errors)
    summary = _summarize(config, layout, buckets, errors, started)
    folder.publish(index_digests(folder.path) | {"summary": dataclasses.asdict(summary)}, started)
    remove_parts(folder.path)
    return summary


def text_digests(encoders: Mapping[str, TextEncoderConfig]) -> dict[str, str]:
    """Name -> digest of each text encoder.

    Raises:
        ValueError: an encoder cannot be built.
    """
    return {name: build_text_encoder(encoder).digest for name, encoder in encoders.items()}


def index_digests(output: Path) -> dict[str, str]:
    """Relative path -> digest of every index; through the checksums inside, of every sample."""
    return {str(p.relative_to(output)): file_digest(p) for p in sorted(output.rglob(INDEX))}


def latent_settings(config: EncodeConfig) -> LatentSettings:
    """The settings of the latent workers."""
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


def _expected_warnings(config: EncodeConfig, layout: EncodeLayout) -> list[str]:
    """The warnings of stages if nothing fails: known now, not only after hours of encoding."""
    expected = [BucketSummary.from_layout(bucket) for bucket in layout.buckets]
    return stage_warnings(summarize_stages(config.stages, config.lengths(), expected), config.serve_shorter)


def _write_latents(config: EncodeConfig, layout: EncodeLayout) -> None:
    """Write the latent shards that are missing."""
    shards = [shard for bucket in layout.buckets for shard in bucket.shards]
    missing = [s for s in shards if not is_done(config.output, "latents", s.bucket, s.name)]
    total, to_do = sum(len(s.segments) for s in shards), sum(len(s.segments) for s in missing)
    for shard in missing:
        forget_texts(config.output, shard.bucket, shard.name)
    progress = Progress("latents", total, "segments", done=total - to_do)
    run_shards(
        LatentWorker, latent_settings(config), [{"shard": s.to_json()} for s in missing], config.workers, progress
    )


def _merge_latents(
    config: EncodeConfig, tae: TAE | DiffusersTAE, layout: EncodeLayout
) -> tuple[list[BucketSummary], list[ErrorRow]]:
    """Write the latent indexes. Returns a summary per bucket that has samples, and all error rows."""
    buckets: list[BucketSummary] = []
    errors: list[ErrorRow] = []
    for bucket in layout.buckets:
        parts = [read_part(config.output, "latents", s.bucket, s.name) for s in bucket.shards]
        rows = [row for part in parts for row in part["rows"]]
        errors += [row for part in parts for row in part["errors"]]
        if not rows:
            continue
        name = bucket.shards[0].bucket
        form = LatentFormat(
            bucket=name,
            resolution=bucket.resolution,
            fps=config.fps,
            dtype=config.dtype,
            tae_digest=tae.digest,
            scale=tae.scale.tolist(),
            shift=tae.shift.tolist(),
        )
        write_index(Path(config.output, "latents", name, INDEX), rows, form)
        buckets.append(BucketSummary.from_rows(name, bucket.resolution, rows))
    return buckets, errors


def _summarize(
    config: EncodeConfig,
    layout: EncodeLayout,
    buckets: list[BucketSummary],
    errors: list[ErrorRow],
    started: float,
) -> EncodeSummary:
    stages = summarize_stages(config.stages, config.lengths(), buckets)
    return EncodeSummary(
        buckets=buckets,
        stages=stages,
        errors=dict(Counter(e["reason"] for e in errors)),
        unused=dict(layout.unused),
        leftover_hours=layout.leftover_s / 3600,
        warnings=[*canary_alarms(config.min_psnr, buckets), *stage_warnings(stages, config.serve_shorter)],
        seconds=time.time() - started,
    )


def _remove_partial_files(output: Path) -> None:
    """Remove the shards that a killed run left half written."""
    for tree in ("latents", "text"):
        for path in Path(output, tree).rglob(".??????.tar.*"):
            path.unlink(missing_ok=True)
