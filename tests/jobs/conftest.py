"""Encoded real clips, made once for the tests of encode, retext, show and takedown."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.encode.config import EncodeConfig
from data_prep.encode.job import encode
from data_prep.media.fetch import content_hash
from data_prep.media.frames import read_frames
from data_prep.media.probe import probe
from data_prep.ray_cluster import shared_cluster
from lingen.io.manifest import OutputFolder
from lingen.tae.config import TAEConfig
from lingen.tae.pretrained import save_tae
from lingen.tae.tae import TAE


@pytest.fixture(scope="session")
def encode_inputs(clips, tmp_path_factory):
    """A curated folder (five videos, three photographs, three files that cannot be used) and a TAE."""
    folder = tmp_path_factory.mktemp("inputs")
    listed = list(csv.DictReader((clips / "manifest.csv").open()))
    videos = [m for m in listed if m["media_type"] == "video"][:5]
    rows = []
    for m in videos + [m for m in listed if m["media_type"] == "image"][:3]:
        path = clips / m["uri"]
        rows.append(_clip(path, m, probe(path)))
    gone = dict(rows[0], clip_id="ffff000000000000-0-3000", uri=str(folder / "gone.mp4"))
    cut = dict(rows[0], clip_id="ffff000000000001-0-3000", uri=str(folder / "cut.mp4"))
    (folder / "cut.mp4").write_bytes(Path(rows[0]["uri"]).read_bytes()[:3000])
    for row in (gone, cut):
        row["content_hash"] = content_hash(str(folder / "cut.mp4"))
    other = dict(rows[1], clip_id="ffff000000000002-0-3000", content_hash="0" * 32)
    curated = OutputFolder.open(folder / "curated", "curate", {}, {})
    pq.write_table(pa.Table.from_pylist([*rows, gone, cut, other]), curated.path / "clips.parquet")
    curated.publish({})
    save_tae(_trained_tae([row["uri"] for row in rows[:5]]), folder / "tae")
    return folder


def _trained_tae(paths):
    """A TAE that reconstructs: its linear part is fitted to the clips, its network is random and small."""
    times = [i / 16 for i in range(32)]
    videos_BNHW3 = torch.stack([torch.from_numpy(read_frames(path, times, size=(32, 48))) for path in paths])
    torch.manual_seed(0)
    tae = TAE(TAEConfig(channels=(8, 8, 16, 16), blocks=1, decoder_blocks=1, linear_shortcut=True))
    tae.start_from_principal_components(videos_BNHW3.permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
    return tae


def _clip(path, listed, about):
    digest = content_hash(str(path))
    facts = {"clip_id": f"{digest}-0-{round(1000 * about.duration_s)}", "uri": str(path), "content_hash": digest}
    facts |= {"media_type": about.media_type, "start_s": 0.0, "end_s": about.duration_s, "fps": about.fps}
    facts |= {"width": about.width, "height": about.height}
    return facts | {k: listed[k] for k in ("caption", "license", "source", "attribution")}


@pytest.fixture(scope="session")
def encode_config(encode_inputs):
    """encode_config(output, **changes) -> EncodeConfig of many small shards."""

    def make(output, **changes):
        options = {"curated": encode_inputs / "curated", "tae": encode_inputs / "tae", "output": output}
        options |= {"resolution": 32, "frames": (17,), "shard_mb": 0.03}
        return EncodeConfig(**options | {"text": ("lingen-tiny",)} | changes)

    return make


@pytest.fixture(scope="module")
def ray_cluster():
    """Ray in this process, for the module; environment variables that point child jobs at it."""
    with shared_cluster() as environment:
        yield environment


@pytest.fixture(scope="session")
def encoded(encode_config, tmp_path_factory):
    """(folder, summary) of an undisturbed run."""
    output = tmp_path_factory.mktemp("encoded") / "out"
    with shared_cluster():
        summary = encode(encode_config(output))
    return output, summary
