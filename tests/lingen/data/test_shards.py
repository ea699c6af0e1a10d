import io
import json
import shutil

import pytest
import torch
import webdataset
from safetensors.torch import load

from lingen.data.shard_index import ShardIndex, read_index
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


def test_every_sample_reads_back_by_row(make_shards):
    index = ShardIndex.open(make_shards(COUNTS))
    index.check_files()
    assert {name: len(b) for name, b in index.buckets.items()} == COUNTS
    generator = torch.Generator().manual_seed(0)
    for bucket in index.buckets.values():
        for row in range(len(bucket)):
            expected = torch.randn(bucket.bucket.latent_shape(), generator=generator)
            latent, text = bucket.read(row)
            assert torch.equal(latent, expected.half())
            for embedding, dim in zip(text, (8, 6)):
                assert torch.equal(embedding, torch.randn(len(embedding), dim, generator=generator).half())
            assert bucket.metadata(row)["clip_id"] == bucket.table["clip_id"][row].as_py()
            assert bucket.row(bucket.key(row)) == row


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


def test_the_index_says_where_every_byte_is(make_shards):
    folder = make_shards(COUNTS)
    table, form = read_index(folder / "latents/video_48x80_17f/index.parquet")
    assert form.tae_digest == "0123456789abcdef"
    for row in table.to_pylist():
        data = (folder / "latents/video_48x80_17f" / row["shard"]).read_bytes()
        members = {f"{k}.{e}": d for k, e, d in list_shard(folder / "latents/video_48x80_17f" / row["shard"])}
        assert data[row["offset"] :][: row["size"]] == members[f"{row['key']}.{LATENT}"]
        assert data[row["metadata_offset"] :][: row["metadata_size"]] == members[f"{row['key']}.{METADATA}"]


def test_equal_content_gives_equal_bytes(make_shards, tmp_path):
    first, second = make_shards(COUNTS), make_shards(COUNTS, folder=tmp_path / "again")
    files = sorted(p.relative_to(first) for p in first.rglob("*.*"))
    assert len(files) == 21
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("tree", ["latents", "text/encoder_0", "text/encoder_1"])
def test_any_flipped_byte_of_a_member_is_caught(make_shards, tree):
    folder = make_shards(COUNTS)
    table, _ = read_index(folder / tree / "video_48x80_17f/index.parquet")
    row = table.to_pylist()[6]
    path = folder / tree / "video_48x80_17f" / row["shard"]
    data = bytearray(path.read_bytes())
    for at in (0, row["size"] // 2, row["size"] - 1):
        data[row["offset"] + at] ^= 1
        path.write_bytes(data)
        bucket = ShardIndex.open(folder).buckets["video_48x80_17f"]
        with pytest.raises(DamagedSample, match=f"{row['key']}: {tree}/video_48x80_17f/000001.tar: checksum"):
            bucket.read(6)
        bucket.read(5)
        data[row["offset"] + at] ^= 1


def test_missing_and_short_shards_are_named(make_shards):
    folder = make_shards(COUNTS)
    path = folder / "text/encoder_1/video_48x80_17f/000001.tar"
    data = path.read_bytes()
    path.write_bytes(data[:600])
    with pytest.raises(FileNotFoundError, match=r"text/encoder_1/video_48x80_17f/000001.tar has 600 bytes"):
        ShardIndex.open(folder).check_files()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"text/encoder_1/video_48x80_17f/000001.tar is missing"):
        ShardIndex.open(folder).check_files()
    with pytest.raises(FileNotFoundError, match=r"000001.tar is missing"):
        ShardIndex.open(folder).buckets["video_48x80_17f"].read(4)


def test_text_of_other_samples_is_refused(make_shards):
    folder = make_shards({"image_64x64": 5})
    other = make_shards({"image_64x64": 6}, folder=folder.parent / "other")
    index = "text/encoder_1/image_64x64/index.parquet"
    shutil.copy(other / index, folder / index)
    with pytest.raises(ValueError, match=r"text/encoder_1/image_64x64 has other samples"):
        ShardIndex.open(folder)


def test_an_encoder_is_left_out_by_leaving_out_its_tree(make_shards):
    folder = make_shards(COUNTS)
    both = ShardIndex.open(folder)
    assert [(form.name, form.dim) for form in both.text_format] == [("encoder_0", 8), ("encoder_1", 6)]
    second = {name: bucket.read(2)[1][1] for name, bucket in both.buckets.items()}
    shutil.rmtree(folder / "text/encoder_0")
    one = ShardIndex.open(folder)
    assert [form.name for form in one.text_format] == ["encoder_1"]
    for name, bucket in one.buckets.items():
        (text,) = bucket.read(2)[1]
        assert torch.equal(text, second[name])
    shutil.rmtree(folder / "text/encoder_1")
    with pytest.raises(ValueError, match="no text here"):
        ShardIndex.open(folder)


def test_an_encoder_must_have_embedded_every_bucket(make_shards):
    folder = make_shards(COUNTS)
    shutil.rmtree(folder / "text/encoder_1/image_64x64")
    with pytest.raises(FileNotFoundError, match=r"text/encoder_1/image_64x64/index.parquet is missing"):
        ShardIndex.open(folder)


def test_a_folder_without_latents_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no latents here; run jobs/encode.py"):
        ShardIndex.open(tmp_path)


def test_select_picks_a_stage_and_says_what_there_is(make_shards):
    index = ShardIndex.open(make_shards({"image_64x64": 2, "video_48x80_17f": 2, "video_48x80_33f": 1}))
    assert list(index.select(frames=17).buckets) == ["image_64x64", "video_48x80_17f"]
    assert list(index.select(media="video").buckets) == ["video_48x80_17f", "video_48x80_33f"]
    with pytest.raises(ValueError, match=r"no samples for resolution 128; it has image_64x64 \(2\)"):
        index.select(resolution=128)


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
