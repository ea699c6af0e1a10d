"""jobs/show.py on encoded real clips: a decoded sample is the clip, wrong targets are refused in one line."""

import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_prep.media.frames import read_frames
from jobs.show import ShowConfig, run
from lingen.data.shard_index import ShardIndex
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


@pytest.mark.parametrize(
    ("target", "flags", "message"),
    [
        ("nokey", [], "is not a file or folder; to look up a sample's key, give --shards"),
        ("nokey", ["--shards", "FOLDER"], "key 'nokey' is not in"),
        ("FOLDER", ["--decode", "out"], "is a whole folder; name a shard"),
        ("TEXT", ["--decode", "out"], "holds no latents; name a tar below latents/"),
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
