"""Look into encoded data: python jobs/show.py FOLDER|SHARD|INDEX|KEY [--decode DIR]."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from pipelines.cli import main


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Print what is in an encoded folder, a shard (.tar), a bucket's index.parquet, or behind a sample's key."""

    target: Annotated[str, tyro.conf.Positional]
    """Folder, tar, index.parquet, or the key of a sample (with --shards)."""
    shards: Path | None = None
    """Encoded folder in which a key is looked up."""
    decode: Path | None = None
    """Folder for the decoded samples: an mp4 (videos) and a contact sheet (PNG) each."""
    tae: Path | None = None
    """TAE checkpoint to decode with; the copy in the encoded folder by default."""
    samples: int = 1
    """How many samples of a shard or index to decode."""
    limit: int = 10
    """How many rows to print."""


def run(config: ShowConfig) -> None:
    from data_prep.encode import show
    from lingen.data.shard_index import INDEX, ShardIndex

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
        root = path.absolute().parents[2]
        samples = show.samples_of(path, config.samples) if config.decode else []
    else:
        if config.shards is None:
            raise ValueError(f"{config.target} is no file or folder; for a sample's key say where with --shards")
        bucket, row = show.find_key(ShardIndex.open(config.shards), config.target)
        _print(show.show_sample(bucket, row))
        root = config.shards
        samples = [show.sample_of(bucket, row)] if config.decode else []
    if samples:
        _decode(samples, config.tae or Path(root, "tae"), config.decode)


def _print(lines) -> None:
    for line in lines:
        print(line)


def _decode(samples, tae_folder: Path, output: Path) -> None:
    """Write each sample as mp4 (videos only) and contact sheet."""
    from PIL import Image

    from data_prep.encode.show import contact_sheet, decode_sample
    from lingen.io.video import write_mp4
    from lingen.tae.pretrained import load_tae

    tae = load_tae(tae_folder)
    output.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        frames_THW3 = decode_sample(sample, tae)
        if sample.bucket.media == "video":
            print(write_mp4(output / f"{sample.key}.mp4", frames_THW3, sample.metadata["fps"]))
        Image.fromarray(contact_sheet(frames_THW3)).save(output / f"{sample.key}.png")
        print(output / f"{sample.key}.png")


if __name__ == "__main__":
    main(ShowConfig, run)
