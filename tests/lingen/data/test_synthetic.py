import pytest

from lingen.data.shard_index import ShardIndex
from lingen.data.synthetic import write_random_encoding, write_random_latents
from lingen.io.manifest import file_digest, require_manifest
from lingen.tae.pretrained import load_tae

COUNTS = {"image_64x64": 5, "video_48x80_17f": 9}


def test_equal_content_gives_equal_bytes(make_shards, tmp_path):
    first, second = make_shards(COUNTS), make_shards(COUNTS, folder=tmp_path / "again")
    files = sorted(p.relative_to(first) for p in first.rglob("*.*"))
    assert len(files) == 21
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_lengths_and_clips_are_as_asked_for(tmp_path):
    encoders = [("one", "1", 8), ("two", "2", 4)]
    clips = ["a", "b", "c"]
    index = ShardIndex.open(
        write_random_latents(tmp_path, {"image_64x64": 3}, 2, encoders=encoders, clip_ids=clips, tokens=(2, 9))
    )
    bucket = index.buckets["image_64x64"]
    assert bucket.keys(range(3)) == [f"{clip}_w0000" for clip in clips]
    assert [[tuple(t.shape) for t in bucket.read(row)[1]] for row in range(3)] == [
        [(2, 8), (9, 4)],
        [(9, 8), (2, 4)],
        [(2, 8), (9, 4)],
    ]
    with pytest.raises(IndexError):
        write_random_latents(tmp_path / "short", {"image_64x64": 4}, clip_ids=clips)


def test_an_encoding_is_a_finished_folder_with_its_tae(tmp_path):
    folder = write_random_encoding(tmp_path / "out", {"image_64x64": 3})
    outputs = require_manifest(folder, "encode", "--shards")["outputs"]
    assert outputs == {str(p.relative_to(folder)): file_digest(p) for p in folder.rglob("index.parquet")}
    assert len(outputs) == 2
    assert ShardIndex.open(folder).format.tae_digest == load_tae(folder / "tae").digest
