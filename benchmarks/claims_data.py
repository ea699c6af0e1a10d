"""Latents for benchmarks/claims.py, written by the real writers in one process: no Ray, no curation.

Scenes are drawn at the size of each bucket: one shape on plain ground, one wording. A tiny model learns these in some
hundred steps (textured ground, which curation asks for, takes it longer). Real clips are cut into pieces of a second.

N frames, H/W pixels.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from data_prep.demo.scenes import Scene, draw_scenes, draw_stills, render
from data_prep.media.frames import read_frames
from data_prep.media.probe import probe
from lingen.data import shards
from lingen.data.buckets import Bucket
from lingen.data.index_file import INDEX, LatentFormat, TextFormat, write_index
from lingen.data.provenance import Provenance, sample_key
from lingen.tae.config import TAE_PRESETS
from lingen.tae.pretrained import save_tae
from lingen.tae.tae import TAE
from lingen.text.encoders import TextEncoderConfig, build_text_encoder
from lingen.train.tae.crops import to_tensor
from lingen.train.tae.fit import measure_normalisation

FPS = 16.0
TEXT = "lingen-tiny"
IMAGE, SHORT, LARGER, LONGER = "image_64x64", "video_64x64_16f", "video_96x96_16f", "video_64x64_32f"
PIECES = 12
"""most pieces of one real clip"""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A clip before it is encoded."""

    source: str
    """what its id is a hash of: samples of one source are on the same side of the held-out split"""
    segment: int
    caption: str
    license: str
    read: Callable[[], np.ndarray]
    """its frames, uint8 (N, H, W, 3)"""


def scene_buckets(count: int, seed: int = 0) -> dict[str, list[Sample]]:
    """Samples of scenes for every bucket; the larger and the longer bucket show the first half of them."""

    def drawn(scene: Scene, bucket: Bucket) -> np.ndarray:
        return render(dataclasses.replace(scene, seconds=bucket.frames / FPS), bucket.height)

    def samples(name: str, scenes: Sequence[Scene]) -> list[Sample]:
        bucket = Bucket.parse(name)
        found = []
        for i, scene in enumerate(scenes):
            combination = scene.movers[0].combination
            words = combination.prompt if bucket.media == "video" else f"a {combination.color} {combination.shape}"
            plain = dataclasses.replace(scene, ground="plain")
            found.append(Sample(f"{bucket.media} {seed} {i}", 0, words, "CC0-1.0", lambda s=plain: drawn(s, bucket)))
        return found

    scenes = draw_scenes(count, seed, two_objects=0.0)
    half = scenes[: count // 2]
    return {
        SHORT: samples(SHORT, scenes),
        LARGER: samples(LARGER, half),
        LONGER: samples(LONGER, half),
        IMAGE: samples(IMAGE, draw_stills(count // 4, seed)),
    }


def clip_buckets(manifest: Path) -> dict[str, list[Sample]]:
    """Pieces of the videos of a manifest, at most PIECES of each, evenly spread."""
    found = []
    with open(manifest, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["media_type"] == "video"]
    bucket = Bucket.parse(SHORT)
    for row in rows:
        path = manifest.parent / row["uri"]
        whole = int(float(probe(path).duration_s) * FPS) // bucket.frames
        for piece in sorted({int(i) for i in np.linspace(0, whole - 1, PIECES)} if whole else ()):
            times = (np.arange(bucket.frames) + piece * bucket.frames) / FPS

            def read(path: Path = path, times: np.ndarray = times) -> np.ndarray:
                return read_frames(path, times.tolist(), (bucket.height, bucket.width), threads=1)

            found.append(Sample(row["uri"], piece, row["caption"], row["license"], read))
    return {SHORT: found}


def write_encoded(folder: Path, buckets: Mapping[str, Sequence[Sample]]) -> Path:
    """Encode samples, unless the folder, which gets its name last, is there. The TAE is that of the first bucket."""
    if folder.is_dir():
        return folder
    torch.manual_seed(0)
    partial = folder.with_name(f".{folder.name}.part")
    partial.mkdir(parents=True, exist_ok=True)
    first = next(iter(buckets.values()))
    spread = first[:: max(1, len(first) // 128)]
    tae = TAE(TAE_PRESETS["tae_tiny"]).eval()
    crops = [sample.read() for sample in spread]
    tae.start_from_principal_components(torch.stack([to_tensor(crop) for crop in crops]))
    measure_normalisation(tae, [lambda crop=crop: crop for crop in crops])
    save_tae(tae, partial / "tae")
    for name, samples in buckets.items():
        print(f"encoding {len(samples)} samples of {folder.name}/{name}", flush=True)
        _write_bucket(partial, Bucket.parse(name), samples, tae)
    return partial.rename(folder)


def _write_bucket(folder: Path, bucket: Bucket, samples: Sequence[Sample], tae: TAE) -> None:
    """One shard of latents and one of text, with their indexes (lingen/data/shards.py)."""
    encoder = build_text_encoder(TextEncoderConfig(model=TEXT))
    captions = sorted({sample.caption for sample in samples})
    embeddings = dict(zip(captions, encoder.encode(captions)))
    trees = [folder / "latents" / bucket.name, folder / "text" / TEXT / bucket.name]
    rows: list[list[dict]] = [[], []]
    with shards.ShardWriter(trees[0] / "000000.tar") as latents, shards.ShardWriter(trees[1] / "000000.tar") as texts:
        for sample, latent_CTHW in _encoded(samples, tae):
            clip_id = hashlib.sha256(sample.source.encode()).hexdigest()[:32]
            key = sample_key(clip_id, sample.segment)
            latent = latents.add(key, shards.LATENT, shards.pack_latent(latent_CTHW, "float16"))
            about = shards.pack_metadata(_provenance(sample, clip_id, bucket), tae.digest)
            metadata = latents.add(key, shards.METADATA, about)
            location = {"key": key, "shard": "000000.tar"}
            facts = {
                "clip_id": clip_id,
                "license": sample.license,
                "source": sample.source,
                "seconds": bucket.frames / FPS,
                "shape": list(latent_CTHW.shape),
                "canary_psnr": None,
            }
            rows[0].append(location | facts | latent.columns() | metadata.columns("metadata_"))
            embedding_LD = embeddings[sample.caption]
            text = texts.add(key, shards.TEXT, shards.pack_text(embedding_LD, "float16"))
            rows[1].append(location | text.columns() | {"length": len(embedding_LD)})
    common = {"bucket": bucket.name, "dtype": "float16"}
    normalisation = {"scale": tae.scale.tolist(), "shift": tae.shift.tolist()}
    form = LatentFormat(**common, resolution=bucket.height, fps=FPS, tae_digest=tae.digest, **normalisation)
    write_index(trees[0] / INDEX, rows[0], form)
    about_text = TextFormat(**common, name=TEXT, model=encoder.name, digest=encoder.digest, dim=encoder.dim)
    write_index(trees[1] / INDEX, rows[1], about_text)


@torch.no_grad()
def _encoded(samples: Sequence[Sample], tae: TAE) -> Iterator[tuple[Sample, torch.Tensor]]:
    for sample in samples:
        yield sample, tae.encode(to_tensor(sample.read())[None])[0]


def _provenance(sample: Sample, clip_id: str, bucket: Bucket) -> Provenance:
    seconds = 0.0 if bucket.media == "image" else bucket.frames / FPS
    return Provenance(
        clip_id=clip_id,
        uri=sample.source,
        caption=sample.caption,
        license=sample.license,
        source="benchmarks/claims.py",
        attribution="",
        bucket=bucket.name,
        start_s=sample.segment * seconds,
        end_s=(sample.segment + 1) * seconds,
        fps=FPS if seconds else 0.0,
        source_width=bucket.width,
        source_height=bucket.height,
    )
