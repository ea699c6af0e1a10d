"""Show encoded data: python jobs/show.py FOLDER|SHARD|INDEX|KEY [--decode DIR]"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lingen.io.redact import printable
from pipelines.cli import main

if TYPE_CHECKING:
    from data_prep.encode.show import LatentSample


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Describe an encoded folder, a shard (.tar), a bucket's index.parquet, or the sample with a key."""

    target: Annotated[str, tyro.conf.Positional]
    """Folder, tar, index.parquet, or the key of a sample (with --shards)."""
    shards: Path | None = None
    """Encoded folder in which to look up a key."""
    decode: Path | None = None
    """Folder for decoded samples: an mp4 (videos only) and a contact sheet (PNG) each."""
    tae: Path | None = None
    """TAE checkpoint to decode with; default: the copy in the encoded folder."""
    samples: int = 1
    """Samples of a shard or index to decode."""
    limit: int = 10
    """Rows to print."""


def run(config: ShowConfig) -> None:
    """Print the description of the target, and decode samples if asked to."""
    from data_prep.encode import show
    from lingen.data.index_file import INDEX
    from lingen.data.shard_index import ShardIndex

    path = Path(config.target)
    if path.is_dir() and (path / INDEX).is_file():
        path = path / INDEX
    if path.is_dir():
        _print(show.show_folder(path))
        if config.decode:
            raise ValueError(f"--decode: {path} is a whole folder; name a shard, an index.parquet or a key")
        return
    if path.is_file():
        _print(show.show_index(path, config.limit) if path.name == INDEX else show.show_shard(path, config.limit))
        folder = path.absolute().parent.parent.parent  # FOLDER/latents/BUCKET/000000.tar
        samples = show.first_samples(path, config.samples) if config.decode else []
    else:
        if config.shards is None:
            raise ValueError(f"{config.target} is not a file or folder; to look up a sample's key, give --shards")
        found = show.find_key(ShardIndex.open(config.shards), config.target)
        for bucket, row in found:
            _print(show.show_sample(bucket, row))
        folder = config.shards
        samples = [show.read_sample(bucket, row) for bucket, row in found] if config.decode else []
    if samples and config.decode:
        _decode(samples, config.tae or folder / "tae", config.decode)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))  # captions and names may come from anyone


def _decode(samples: list[LatentSample], tae_folder: Path, output: Path) -> None:
    """Write each sample as mp4 (videos only) and contact sheet, named by its key and, if two share it, its bucket."""
    from PIL import Image

    from data_prep.encode.show import contact_sheet, decode_sample
    from lingen.io.inside import inside
    from lingen.io.video import write_mp4
    from lingen.tae.pretrained import load_tae

    tae = load_tae(tae_folder)
    output.mkdir(parents=True, exist_ok=True)
    keys = [sample.key for sample in samples]
    for sample in samples:
        name = sample.key if keys.count(sample.key) == 1 else f"{sample.key}.{sample.bucket.name}"
        frames_NHW3 = decode_sample(sample, tae)
        if sample.bucket.media == "video":
            print(write_mp4(inside(output, f"{name}.mp4"), frames_NHW3, sample.metadata["fps"]))
        sheet = inside(output, f"{name}.png")
        Image.fromarray(contact_sheet(frames_NHW3)).save(sheet)
        print(sheet)


if __name__ == "__main__":
    main(ShowConfig, run)
