import re

import numpy as np
import pytest
import torch

from data_prep.encode import show
from lingen.data.index_file import INDEX
from lingen.data.shard_index import ShardIndex
from lingen.data.shards import LATENT, METADATA, ShardWriter


@pytest.fixture
def video(encoded):
    """A bucket of videos."""
    return ShardIndex.open(encoded).buckets["video_48x80_17f"]


def test_a_shard_an_index_and_a_folder_are_described(encoded, video):
    lines = list(show.show_folder(encoded))
    assert f"{len(ShardIndex.open(encoded))} samples" in lines[0]
    assert any(video.bucket.name in line for line in lines)
    for tree in ("latents", "text/lingen-tiny"):
        path = encoded / tree / video.bucket.name
        lines = list(show.show_index(path / INDEX, limit=3))
        assert f"samples: {len(video)} in" in "\n".join(lines)
        assert sum(video.key(i) in "\n".join(lines) for i in range(len(video))) == 3
        lines = list(show.show_shard(path / "000000.tar", limit=99))
        assert "checksums: 0 of" in lines[1]
        assert any(video.key(0) in line for line in lines)


def test_a_damaged_member_is_named(encoded, video):
    tar = encoded / "latents" / video.bucket.name / "000000.tar"
    row = video.table.to_pylist()[1]
    data = bytearray(tar.read_bytes())
    data[row["offset"] + row["size"] - 1] ^= 1
    tar.write_bytes(data)
    lines = list(show.show_shard(tar, limit=5))
    assert "checksums: 1 of" in lines[1]
    assert f"DAMAGED {row['key']}.latent.safetensors" in lines[2]


def test_a_tar_without_its_index_still_decodes(encoded, video, tmp_path, small_tae):
    source = encoded / "latents" / video.bucket.name / "000000.tar"
    (tmp_path / "alone.tar").write_bytes(source.read_bytes())
    assert "not checked" in list(show.show_shard(tmp_path / "alone.tar", limit=1))[1]
    sample, *_ = show.first_samples(tmp_path / "alone.tar", 1)
    assert sample.key == video.key(0)
    assert torch.equal(sample.latent_Cthw, video.read(0)[0])
    assert show.decode_sample(sample, small_tae).shape == (17, 48, 80, 3)


def test_the_first_samples_of_an_index_come_from_its_first_shards(encoded, video):
    found = show.first_samples(encoded / "latents" / video.bucket.name / INDEX, 5)
    assert [sample.key for sample in found] == video.keys(range(5))


def test_a_sample_is_described_and_an_unknown_key_refused(encoded, video):
    (_, (bucket, row)) = show.find_key(ShardIndex.open(encoded), video.key(4))
    text = "\n".join(show.show_sample(bucket, row))
    latent = bucket.read(row)[0].float()
    for expected in (video.key(4), "caption: caption 4", f"mean {latent.mean():.3f}, std {latent.std():.3f}"):
        assert expected in text
    assert "text lingen-tiny" in text
    with pytest.raises(ValueError, match=re.escape(f"key 'nokey' is not in {encoded}")):
        show.find_key(ShardIndex.open(encoded), "nokey")


def test_latents_of_another_tae_and_text_are_not_decoded(encoded, video, small_tae):
    sample = show.read_sample(video, 0)
    sample.metadata["tae_digest"] = "feedfeedfeedfeed"
    with pytest.raises(ValueError, match=r"--tae: .* was encoded by TAE feedfeedfeedfeed, but this one is"):
        show.decode_sample(sample, small_tae)
    with pytest.raises(ValueError, match="holds no latents"):
        show.first_samples(encoded / "text" / "lingen-tiny" / video.bucket.name / "000000.tar", 1)


def test_a_contact_sheet_has_at_most_four_rows_evenly_spaced_in_time():
    frames = np.zeros((100, 6, 10, 3), np.uint8) + np.arange(100, dtype=np.uint8)[:, None, None, None]
    sheet = show.contact_sheet(frames, columns=3)
    assert sheet.shape == (4 * 6 + 3 * 2, 3 * 10 + 2 * 2, 3)
    assert (sheet[0, 0, 0], sheet[-1, -1, 0]) == (0, 99)
    assert show.contact_sheet(frames[:2]).shape == (6, 2 * 10 + 2, 3)


def test_a_key_in_two_buckets_is_found_in_both(encoded, video):
    index = ShardIndex.open(encoded)
    found = show.find_key(index, video.key(4))
    assert [(bucket.bucket.name, row) for bucket, row in found] == [("image_64x64", 4), ("video_48x80_17f", 4)]
    assert [bucket.bucket.name for bucket, _ in show.find_key(index, index.buckets["image_64x64"].key(8))] == [
        "image_64x64"
    ]


def test_damaged_members_are_told_and_not_decoded(tmp_path):
    path = tmp_path / "000000.tar"
    with ShardWriter(path) as tar:
        tar.add("a_w0000", LATENT, b"noise")
        tar.add("a_w0000", METADATA, b"[]")
    text = "\n".join(show.show_shard(path, limit=5))
    assert "a_w0000.latent.safetensors  not a safetensors file" in text
    assert "a_w0000.json  not the metadata of a sample" in text
    with pytest.raises(ValueError, match=re.escape(f"{path}: a_w0000: not a safetensors file")):
        show.first_samples(path, 1)
