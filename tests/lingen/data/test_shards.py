import json
import os
import re
import tarfile

import pytest
import torch
import webdataset
from safetensors.torch import load

from lingen.data.shard_index import ShardIndex
from lingen.data.shards import (
    LATENT,
    METADATA,
    DamagedSample,
    ShardWriter,
    pack_latent,
    pack_text,
    read_shard,
    unpack_latent,
    unpack_metadata,
    unpack_text,
)

COUNTS = {"image_64x64": 5, "video_48x80_17f": 9}


def test_plain_webdataset_reads_the_same(make_shards):
    folder = make_shards(COUNTS)
    bucket = ShardIndex.open(folder).buckets["video_48x80_17f"]
    shards = ["000000.tar", "000001.tar", "000002.tar"]
    trees = [[str(folder / tree / bucket.bucket.name / s) for s in shards] for tree in ("latents", "text/encoder_1")]
    rows = 0
    for row, (sample, words) in enumerate(zip(*(webdataset.WebDataset(t, shardshuffle=False) for t in trees))):
        latent, text = bucket.read(row)
        assert sample["__key__"] == words["__key__"] == bucket.key(row)
        assert torch.equal(load(sample[LATENT])["latent"], latent)
        assert torch.equal(load(words["text.safetensors"])["text"], text[1])
        assert json.loads(sample[METADATA]) == bucket.metadata(row)
        rows += 1
    assert rows == 9


def test_a_failed_writer_leaves_nothing(tmp_path):
    def write():
        with ShardWriter(tmp_path / "s" / "000000.tar") as shard:
            shard.add("a_w0000", METADATA, b"{}")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write()
    assert list((tmp_path / "s").iterdir()) == []


def test_our_reader_of_safetensors_agrees_with_the_library(make_shards):
    folder = make_shards({"video_48x80_17f": 2}, dtype="bfloat16")
    for key, kind, data in read_shard(folder / "text/encoder_0/video_48x80_17f/000000.tar"):
        assert key
        assert kind == "text.safetensors"
        assert torch.equal(unpack_text(data), load(data)["text"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        *(
            len(h := json.dumps({"latent": about}).encode()).to_bytes(8, "little") + h + b"12345678"
            for about in (
                {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]},
                {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
                {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
                {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
                {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
                {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
                {"shape": [2]},
                7,
            )
        ),
    ],
)
def test_hostile_members_are_damage(data):
    with pytest.raises(DamagedSample):
        unpack_latent(data)


def test_values_that_do_not_fit_the_dtype_are_refused():
    with pytest.raises(ValueError, match="not finite as float16"):
        pack_latent(torch.full((1, 1, 1, 1), 1e6), "float16")
    assert torch.equal(load(pack_text(torch.ones(2, 3), "bfloat16"))["text"], torch.ones(2, 3).bfloat16())


def tar_of(path, *members, data=b"{}"):
    """A tar with these headers, each with two bytes of data."""
    with open(path, "wb") as file:
        for changes in members:
            header = tarfile.TarInfo("a_w0000.json")
            header.size = 2
            for name, value in changes.items():
                setattr(header, name, value)
            file.write(header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data.ljust(512, b"\0"))
        file.write(bytes(1024))
    return path


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"name": "../../etc/cron.d/x.json"}, "'../../etc/cron.d/x.json' of 2 bytes is not KEY.EXTENSION"),
        ({"name": "/abs/a_w0000.json"}, "'/abs/a_w0000.json' of 2 bytes"),
        ({"name": "a_w0000.mp4"}, "'a_w0000.mp4' of 2 bytes"),
        ({"name": "a\x1b[2J_w0000.json"}, r"'a\x1b[2J_w0000.json' of 2 bytes"),
        ({"size": -512}, "of -512 bytes"),
        ({"size": 2**50}, "of 1125899906842624 bytes"),
        ({"size": 5000}, "the tar is cut off within a_w0000.json"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}, "is a link, a folder"),
        ({"type": tarfile.DIRTYPE, "size": 0}, "is a link, a folder"),
        ({"type": tarfile.XHDTYPE}, "is a link, a folder"),
    ],
)
def test_a_tar_with_members_of_no_sample_is_refused(tmp_path, header, message):
    assert list(read_shard(tar_of(tmp_path / "good.tar", {}, {}))) == [("a_w0000", "json", b"{}")] * 2
    members = read_shard(tar_of(tmp_path / "x.tar", {}, header))
    assert next(members) == ("a_w0000", "json", b"{}")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/x.tar: ")) as why:
        next(members)
    assert message in str(why.value)


def test_a_pipe_and_noise_are_no_tars(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ValueError, match=r"pipe\.tar is not a file"):
        next(read_shard(tmp_path / "pipe.tar"))
    (tmp_path / "noise.tar").write_bytes(b"noise" * 200)
    with pytest.raises(ValueError, match="no header of a tar at byte 0"):
        next(read_shard(tmp_path / "noise.tar"))


@pytest.mark.parametrize(("key", "extension"), [("../x_w0000", "json"), ("x", "json"), ("x_w0000", "exe")])
def test_what_is_not_read_back_is_not_written(tmp_path, key, extension):
    with pytest.raises(ValueError, match=r"is not KEY\.EXTENSION of a sample"), ShardWriter(tmp_path / "a.tar") as tar:
        tar.add(key, extension, b"{}")
    assert list(tmp_path.iterdir()) == []


ABOUT = {"clip_id": "c", "uri": "u", "caption": "", "license": "l", "source": "", "attribution": "", "bucket": "b"}
ABOUT |= {"start_s": 0.0, "end_s": 1, "fps": 16.0, "source_width": 64, "source_height": 48, "tae_digest": "0"}


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b"[]",
        b"\xff",
        json.dumps({k: v for k, v in ABOUT.items() if k != "caption"}).encode(),
        json.dumps(ABOUT | {"caption": None}).encode(),
        json.dumps(ABOUT | {"fps": "16"}).encode(),
        json.dumps(ABOUT | {"fps": float("nan")}).encode(),
        json.dumps(ABOUT | {"start_s": 10**400}).encode(),
    ],
)
def test_hostile_metadata_are_damage(data):
    assert unpack_metadata(json.dumps(ABOUT).encode()) == ABOUT
    with pytest.raises(DamagedSample, match="not the metadata of a sample"):
        unpack_metadata(data)


def test_a_header_too_deep_for_the_parser_is_damage():
    deep = b"[" * 100_000
    with pytest.raises(DamagedSample):
        unpack_latent(len(deep).to_bytes(8, "little") + deep)
