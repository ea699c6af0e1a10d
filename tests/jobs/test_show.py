"""jobs/show.py over really encoded clips: what it prints, and that what it decodes is the clip."""

import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.encode import show
from data_prep.media.frames import read_frames
from jobs.show import ShowConfig, run
from lingen.data.shard_index import INDEX, ShardIndex
from lingen.tae.config import TAEConfig
from lingen.tae.pretrained import save_tae
from lingen.tae.tae import TAE
from pipelines.cli import parse

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture
def video(encoded):
    """A bucket of videos."""
    return next(b for b in ShardIndex.open(encoded[0]).buckets.values() if b.bucket.media == "video")


def test_a_decoded_sample_is_the_clip(encoded, video, tmp_path):
    key, about = video.key(0), video.metadata(0)
    command = [sys.executable, "jobs/show.py", key, "--shards", encoded[0], "--decode", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert about["caption"] in done.stdout
    assert "license: CC-BY-4.0" in done.stdout
    with av.open(str(tmp_path / f"{key}.mp4")) as container:
        rate = container.streams.video[0].average_rate
        shown = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert rate == 16
    size = (video.bucket.height, video.bucket.width)
    frames = read_frames(about["uri"], [about["start_s"] + i / 16 for i in range(17)], size=size)
    assert shown.shape == frames.shape
    error = np.square(shown.astype(float) - frames)
    assert error.mean() < 0.3 * np.square(frames - frames.mean((1, 2), keepdims=True)).mean()
    assert Image.open(tmp_path / f"{key}.png").size == (8 * size[1] + 7 * 2, 3 * size[0] + 2 * 2)  # 17 frames


def test_a_shard_an_index_and_a_folder_are_described(encoded, video):
    folder = encoded[0]
    lines = list(show.show_folder(folder))
    assert f"{len(ShardIndex.open(folder))} samples" in lines[0]
    assert any(video.bucket.name in line for line in lines)
    for tree in ("latents", "text/lingen-tiny"):
        path = folder / tree / video.bucket.name
        lines = list(show.show_index(path / INDEX, limit=3))
        assert f"samples: {len(video)} in" in "\n".join(lines)
        assert sum(video.key(i) in "\n".join(lines) for i in range(len(video))) == 3
        lines = list(show.show_shard(path / "000000.tar", limit=99))
        assert "checksums: 0 of" in lines[1]
        assert any(video.key(0) in line for line in lines)


def test_a_damaged_member_is_named(encoded, video, tmp_path):
    source = encoded[0] / "latents" / video.bucket.name
    for name in (INDEX, "000000.tar"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    row = video.table.to_pylist()[1]
    data = bytearray((tmp_path / "000000.tar").read_bytes())
    data[row["offset"] + row["size"] - 1] ^= 1
    (tmp_path / "000000.tar").write_bytes(data)
    lines = list(show.show_shard(tmp_path / "000000.tar", limit=5))
    assert "checksums: 1 of" in lines[1]
    assert f"DAMAGED {row['key']}.latent.safetensors" in lines[2]


def test_a_tar_without_its_index_still_decodes(encoded, video, tmp_path):
    source = encoded[0] / "latents" / video.bucket.name / "000000.tar"
    (tmp_path / "alone.tar").write_bytes(source.read_bytes())
    sample, *_ = show.samples_of(tmp_path / "alone.tar", 1)
    assert sample.key == video.key(0)
    assert torch.equal(sample.latent_CTHW, video.read(0)[0])


@pytest.mark.parametrize(
    ("target", "flags", "message"),
    [
        ("nokey", [], "for a sample's key say where with --shards"),
        ("nokey", ["--shards", "FOLDER"], "key 'nokey' is not in"),
        ("FOLDER", ["--decode", "out"], "is a whole folder; name a shard"),
        ("TEXT", ["--decode", "out"], "holds no latents to decode"),
        ("KEY", ["--shards", "FOLDER", "--decode", "out", "--tae", "OTHER"], "was encoded by TAE"),
    ],
)
def test_wrong_targets_are_named_in_one_line(encoded, video, tmp_path, target, flags, message):
    save_tae(TAE(TAEConfig(channels=(8, 8, 8, 8), blocks=1, decoder_blocks=1)), tmp_path / "tae")
    names = {"FOLDER": str(encoded[0]), "KEY": video.key(0), "OTHER": str(tmp_path / "tae"), "out": str(tmp_path / "o")}
    names["TEXT"] = str(encoded[0] / "text/lingen-tiny" / video.bucket.name / "000000.tar")
    config = parse(ShowConfig, [names.get(a, a) for a in [target, *flags]])
    with pytest.raises(ValueError, match=re.escape(message)) as why:
        run(config)
    assert "\n" not in str(why.value)
