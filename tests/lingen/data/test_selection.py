"""What is held out, and what a reviewed set leaves."""

import pytest
import torch

from lingen.data.selection import licences, select
from lingen.data.shard_index import ShardIndex


def keys(index):
    return {name: {b.key(row) for row in range(len(b))} for name, b in index.buckets.items()}


def test_whole_files_are_held_out_alike_in_every_bucket_and_forever(
    shards, make_shards, file_hashes, clip_ids, tmp_path
):
    train, out = select(shards, 0.25)
    assert {name: (len(train.buckets[name]), len(out.buckets[name])) for name in shards.buckets} == {
        "image_64x64": (48, 16),
        "video_64x64_16f": (48, 16),
    }
    files = {key.split("-")[0] for found in keys(out).values() for key in found}
    assert files == set(file_hashes[:8])
    assert not files & {key.split("-")[0] for found in keys(train).values() for key in found}
    grown = ShardIndex.open(make_shards({"image_64x64": 10}, clip_ids=clip_ids[10:], folder=tmp_path / "grown"))
    assert {key.split("-")[0] for key in keys(select(grown, 0.25)[1])["image_64x64"]} <= files
    assert select(shards, 0.0)[1] is None


def test_a_subset_reads_the_rows_it_names(shards):
    train, _ = select(shards, 0.25)
    part, whole = train.buckets["video_64x64_16f"], shards.buckets["video_64x64_16f"]
    assert part.keys([0, 47]) == [part.key(0), part.key(47)] == whole.keys([16, 63])
    assert part.row(part.key(5)) == 5
    assert part.metadata(3) == whole.metadata(19)
    assert torch.equal(part.read(7)[0], whole.read(23)[0])
    assert part.table["key"].to_pylist() == part.column("key").to_pylist() == part.keys(range(48))
    with pytest.raises(KeyError):
        part.row(whole.key(0))


def test_a_selection_can_be_selected_from(shards):
    """A subset is a bucket in every respect: holding out a quarter, then half, leaves what holding out half leaves."""
    assert keys(select(select(shards, 0.25)[0], 0.5)[0]) == keys(select(shards, 0.5)[0])


def test_a_bucket_that_is_taken_whole_is_read_without_a_detour(shards):
    train, _ = select(shards, 0.0)
    assert all(train.buckets[name] is bucket for name, bucket in shards.buckets.items())


def test_names_of_clips_may_look_like_the_names_of_windows(make_shards):
    clips = [f"9{i}_w{i}-0-1000" for i in range(4)]
    index = ShardIndex.open(make_shards({"image_64x64": 4}, clip_ids=clips))
    train, _ = select(index, 0.0, clips=clips[1:3])
    assert keys(train) == {"image_64x64": {f"{clip}_w0000" for clip in clips[1:3]}}


def test_licences_are_counted_over_what_is_trained_on(shards):
    assert licences(select(shards, 0.25)[0]) == {"CC-BY-4.0": 96}


def test_a_reviewed_set_leaves_its_clips_but_never_those_held_out(shards, clip_ids):
    train, out = select(shards, 0.25, clips=[clip_ids[0], clip_ids[20], clip_ids[21], "not-encoded"])
    assert keys(train)["video_64x64_16f"] == {f"{c}_w0000" for c in clip_ids[20:22]}
    assert len(out) == 32, "validation does not depend on the reviewed set"
    with pytest.raises(ValueError, match="reviewed set and not held out"):
        select(shards, 0.25, clips=[clip_ids[0]])


def test_holding_out_everything_is_refused(shards):
    with pytest.raises(ValueError, match=r"--shards: all samples of image_64x64, video_64x64_16f in .* are held out"):
        select(shards, 0.99)
