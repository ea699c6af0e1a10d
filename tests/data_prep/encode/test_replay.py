"""The command that an internal error ends with does again what failed, and lets the exception through."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_prep.encode import replay, segment_frames
from data_prep.encode.error_table import error_row
from data_prep.encode.texts import TextSettings, TextWorker
from data_prep.media.errors import MediaError
from lingen.data.shard_index import ShardIndex
from lingen.tae.pretrained import save_tae
from lingen.text.encoders import TextEncoderConfig

ROOT = Path(__file__).parents[3]


@pytest.fixture
def segment(clips, make_clip, cut):
    """A second of a real video."""
    clip = make_clip("a", 1.0) | {"uri": str(clips / "videos" / "sam2_01_dog.mp4")}
    found = cut(clip, resolution=32, frames=[9]).segments.values()
    return next(s for of_bucket in found for s in of_bucket)


@pytest.mark.slow
def test_the_command_of_a_row_can_be_pasted_into_a_shell(segment, small_tae, tmp_path):
    save_tae(small_tae, tmp_path / "a tae")
    detail = error_row(segment, MediaError("internal_error", "KeyError: 0"), str(tmp_path / "a tae"))["detail"]
    command = detail.partition("; replay: ")[2].replace("python", shlex.quote(sys.executable), 1)
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "9 frames of 32x48, latent [16, 2, 4, 6]\n"


def test_exceptions_come_through_with_their_traceback(segment, monkeypatch):
    def read(path, times_s, size, threads, known):
        assert (times_s, size) == (segment.times_s, (32, 48))
        raise KeyError("orientation")

    monkeypatch.setattr(replay, "read_frames", read)
    with pytest.raises(KeyError, match="orientation"):
        replay.frames(segment.provenance.uri, segment.bucket, segment.start_s, segment.provenance.fps)


def test_a_long_segment_is_read_in_pieces_again(segment, monkeypatch):
    monkeypatch.setattr(segment_frames, "GROUP_BYTES", 1)
    monkeypatch.delattr(replay, "read_frames")
    assert replay.frames(segment.provenance.uri, segment.bucket, 0.0, 16.0) == "9 frames of 32x48"


def test_a_caption_is_embedded_again(encoded, tally):
    encoder = TextEncoderConfig(model="lingen-tiny", seed=7)
    settings = TextSettings(
        output=str(encoded), name="b", encoder=encoder, dtype="float32", device="cpu", threads=torch.get_num_threads()
    )
    bucket = ShardIndex.open(encoded).buckets["image_64x64"]
    words = TextWorker(settings, tally)._replay({"key": bucket.key(3)} | bucket.metadata(3))
    assert words[0] == "text"
    folder, options = Path(words[1]), dict(zip(words[2::2], words[3::2]))
    tokens = replay.text(folder, **{name.removeprefix("--"): value for name, value in options.items()})
    assert tokens.endswith("tokens, finite: True")
    assert tokens.startswith("b: ")
