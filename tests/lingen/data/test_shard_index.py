import shutil

import fsspec
import pytest
import torch

from lingen.data.index_file import read_index
from lingen.data.shard_index import ShardIndex, first_captions
from lingen.data.shards import DamagedSample

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


def test_select_picks_a_stage_and_names_what_exists(make_shards):
    index = ShardIndex.open(make_shards({"image_64x64": 2, "video_48x80_17f": 2, "video_48x80_33f": 1}))
    assert list(index.select(frames=17).buckets) == ["image_64x64", "video_48x80_17f"]
    assert list(index.select(media="video").buckets) == ["video_48x80_17f", "video_48x80_33f"]
    with pytest.raises(ValueError, match=r"no samples for resolution 128; it has image_64x64 \(2\)"):
        index.select(resolution=128)


def test_shards_behind_a_uri_read_like_local_ones(make_shards, tmp_path):
    folder = make_shards({"image_64x64": 5, "video_48x80_17f": 6})
    fs = fsspec.filesystem("memory")
    fs.put(str(folder), "/remote/encoded", recursive=True)
    local, far = ShardIndex.open(folder), ShardIndex.open("memory://remote/encoded", tmp_path / "cache")
    far.check_files()
    for name, bucket in local.buckets.items():
        for row in range(len(bucket)):
            assert bucket.read(row)[0].equal(far.buckets[name].read(row)[0])
    fs.rm("/remote/encoded/text/encoder_0/video_48x80_17f/000001.tar")
    with pytest.raises(
        FileNotFoundError, match=r"memory://remote/encoded: shard text/encoder_0/video_48x80_17f/000001"
    ):
        far.check_files()


def test_first_captions_are_different_and_videos_come_first(make_shards):
    index = ShardIndex.open(make_shards({"image_64x64": 12, "video_48x80_17f": 2}))
    assert first_captions(index, 2) == ("caption 0", "caption 1")
    assert first_captions(index, 99) == tuple(f"caption {i}" for i in range(8)), "images repeat the videos' two"
