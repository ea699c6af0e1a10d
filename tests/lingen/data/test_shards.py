import io
import json

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
    list_shard,
    pack_latent,
    pack_text,
    sample_key,
    unpack_latent,
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
            shard.add("a", METADATA, b"{}")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write()
    assert list((tmp_path / "s").iterdir()) == []


def test_our_reader_of_safetensors_agrees_with_the_library(make_shards):
    folder = make_shards({"video_48x80_17f": 2}, dtype="bfloat16")
    for key, kind, data in list_shard(folder / "text/encoder_0/video_48x80_17f/000000.tar"):
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


def test_keys_have_no_dots_and_stay_apart():
    assert sample_key("0123abcd-0-17000", 3) == "0123abcd-0-17000_w0003"
    hostile = ["a.b", "a/b", "a-b", "../a-b", "a" * 300, "a" * 301]
    keys = {sample_key(clip, 0) for clip in hostile}
    assert len(keys) == len(hostile)
    assert all(len(k) < 82 and "." not in k and "/" not in k for k in keys)


def test_list_shard_reads_only_files(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("a.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        member = tarfile.TarInfo("b.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    assert list_shard(tmp_path / "x.tar") == [("b", "json", b"{}")]
