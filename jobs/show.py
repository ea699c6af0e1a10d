"""Show what our jobs wrote: python jobs/show.py FOLDER|FILE|KEY [--why FILE] [--decode DIR]"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lingen.io.redact import printable
from pipelines.cli import main

if TYPE_CHECKING:
    from data_prep.encode.show import LatentSample

MOST_TEXT = 4000
"""Characters of a text file that are shown, and of one line of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Describe a curated or encoded folder, a file in one (ledger.parquet, a shard ...), or the sample with a key."""

    target: Annotated[str, tyro.conf.Positional]
    """Folder or file that one of our jobs wrote, or the key of a sample (with --shards)."""
    why: str | None = None
    """With a curated folder: tell what became of a file, by its name, the end of its path, or a clip_id."""
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
    from lingen.data.index_file import INDEX

    path = Path(config.target)
    if path.is_dir() and (path / INDEX).is_file():
        path = path / INDEX
    if config.why is not None:
        _tell(path, config.why, config.limit)
    elif path.is_dir():
        _print(_folder(path, config.limit))
        if config.decode:
            raise ValueError(f"--decode: {path} is a whole folder; name a shard, an index.parquet or a key")
    elif path.is_file() and path.name != INDEX and path.suffix != ".tar":
        if config.decode:
            raise ValueError(f"--decode: {path} holds no samples; name a shard, an index.parquet or a key")
        _print(_file(path, config.limit))
    else:
        _show_samples(path, config)


def _show_samples(path: Path, config: ShowConfig) -> None:
    """A shard, an index, or the sample with a key."""
    from data_prep.encode import show
    from lingen.data.index_file import INDEX
    from lingen.data.shard_index import ShardIndex

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


def _tell(path: Path, name: str, limit: int) -> None:
    """What became of a file in a curation."""
    from data_prep.curate.story import LEDGER, tell

    ledger = path / LEDGER if path.is_dir() else path
    if not ledger.is_file():
        raise ValueError(f"--why: {path} is no finished curation, it has no {LEDGER}; give --output of jobs/curate.py")
    _print(tell(ledger, name, limit))


def _folder(path: Path, limit: int) -> Iterator[str]:
    """Describe a folder of any of our jobs."""
    from data_prep.curate.story import LEDGER, summary_lines
    from data_prep.encode.show import show_folder
    from lingen.io.manifest import read_claim, read_manifest

    manifest = read_manifest(path)
    job = manifest["job"] if manifest else ""
    if job == "curate" or (not job and (path / LEDGER).is_file()):
        yield from summary_lines(path / LEDGER, limit)
    elif not manifest and (claim := read_claim(path)):
        yield f"{path}: begun by jobs/{claim['job']}.py, not finished; the same command continues"
    elif not manifest and (path / "signals").is_dir() and (path / "files").is_dir():
        raise ValueError(f"{path} keeps measurements for jobs/curate.py; give the folder of a curation")
    elif job in ("", "encode", "retext"):
        yield from show_folder(path)
    else:
        yield f"{path}: made by jobs/{job}.py, finished at {manifest.get('finished_at', '?') if manifest else '?'}"
        yield from (f"  {entry.name}" for entry in sorted(path.iterdir()) if not entry.name.startswith("."))


def _file(path: Path, limit: int) -> Iterator[str]:
    """Describe a file that is neither a shard nor an index.

    Raises:
        ValueError: there is nothing to say about such a file; the message says what to give.
    """
    from data_prep.curate.story import LEDGER, summary_lines
    from data_prep.sources.manifest import MEDIA_SUFFIXES

    if path.name == LEDGER:
        yield from summary_lines(path, limit)
    elif path.suffix == ".parquet":
        yield from _table(path, limit)
    elif path.suffix in (".json", ".jsonl", ".csv", ".txt", ".md"):
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(MOST_TEXT + 1)
        yield from text[:MOST_TEXT].splitlines()
        if len(text) > MOST_TEXT:
            yield "..."
    elif path.suffix.lower() in MEDIA_SUFFIXES:
        raise ValueError(f"{path} is a clip; what became of it: python jobs/show.py CURATED --why {path.name}")
    elif path.suffix in (".html", ".svg"):
        raise ValueError(f"{path} is for a browser; this shows folders, .parquet, .tar and .json files, and keys")
    else:
        raise ValueError(f"{path} is not ours to show; give a folder of our jobs, a .parquet, .tar or .json, or a key")


def _table(path: Path, limit: int) -> Iterator[str]:
    """Describe a Parquet file: its columns, and its first rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        rows = next(file.iter_batches(batch_size=max(1, limit)), None)
        shown = rows.slice(0, limit).to_pylist() if rows else []
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as Parquet: {str(error)[:200]}") from None
    yield f"{path}: {file.metadata.num_rows} rows; columns: {', '.join(map(str, file.schema_arrow.names))}"
    for i, row in enumerate(shown):
        yield f"row {i}"
        for name, value in row.items():
            if value not in (None, "") and value == value:
                yield f"  {name}: {value if not isinstance(value, float) else format(value, '.4g')}"[:200]
    if file.metadata.num_rows > len(shown):
        yield f"... and {file.metadata.num_rows - len(shown)} more (--limit)"


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
