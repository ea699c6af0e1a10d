import re

import pyarrow.parquet as pq
import pytest

from data_prep.encode.summary import EncodeSummary
from data_prep.encode.takedown import ShardTakedownConfig, runs_on, take_down
from lingen.data.index_file import INDEX, read_index, samples_digest
from lingen.data.shard_index import ShardIndex
from lingen.data.shards import DamagedSample
from lingen.io.manifest import OutputFolder, read_manifest

GONE = f"{2:016x}-0-1000"


@pytest.fixture
def config(encoded, tmp_path):
    """Takes down the clip GONE: a sample of the first shard of both buckets."""
    (tmp_path / "list.csv").write_text(f"content,detail\n{GONE},asked by its owner\n")
    return ShardTakedownConfig(shards=encoded, takedown=tmp_path / "list.csv", output=tmp_path / "out")


def test_affected_shards_are_rewritten_and_the_others_shared(encoded, config, tmp_path):
    affected = take_down(config)
    assert affected.samples == [
        (bucket, "000000.tar", f"{GONE}_w0000", "asked by its owner") for bucket in ("image_64x64", "video_48x80_17f")
    ]
    assert affected.shards() == [("image_64x64", "000000.tar", 1), ("video_48x80_17f", "000000.tar", 1)]
    before, after = ShardIndex.open(encoded), ShardIndex.open(tmp_path / "out")
    after.check_files()
    for name, old in before.buckets.items():
        new = after.buckets[name]
        stay = [key for key in old.keys(range(len(old))) if not key.startswith(GONE)]
        assert new.keys(range(len(new))) == stay
        for row, key in enumerate(stay):
            assert (new.read(row)[0] == old.read(old.row(key))[0]).all()
            assert (new.read(row)[1][0] == old.read(old.row(key))[1][0]).all()
            assert new.metadata(row) == old.metadata(old.row(key))
    tars = [path.relative_to(encoded) for path in encoded.rglob("*.tar")]
    shared = {str(tar) for tar in tars if (tmp_path / "out" / tar).samefile(encoded / tar)}
    assert shared == {str(tar) for tar in tars if tar.name != "000000.tar"}
    assert pq.read_table(tmp_path / "out" / "errors.parquet")["clip_id"].to_pylist() == [f"{99:016x}-0-1000"]
    summary = EncodeSummary.from_folder(tmp_path / "out")
    assert (summary.samples, [s.samples for s in summary.stages]) == (13, [8, 5])
    assert not any(GONE.encode() in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_shard_of_which_no_sample_is_left_has_no_tar(encoded, config, tmp_path):
    keys = "\n".join(f"{i:016x}-0-1000," for i in range(4, 8))
    config.takedown.write_text(f"content,detail\n{keys}\n")
    take_down(config)
    for tree in ("latents", "text/lingen-tiny"):
        folder = tmp_path / "out" / tree / "image_64x64"
        assert sorted(path.name for path in folder.glob("*.tar")) == ["000000.tar", "000002.tar"]
        assert len(read_index(folder / INDEX)[0]) == 5


def test_a_takedown_of_everything_is_refused(encoded, config):
    config.takedown.write_text("license,detail\nCC-BY-4.0,\n")
    with pytest.raises(ValueError, match=re.escape(f"--takedown: no sample of {encoded} would be left")):
        take_down(config)


def test_a_damaged_sample_is_not_written_again(encoded, config):
    row = read_index(encoded / "latents" / "image_64x64" / INDEX)[0].to_pylist()[1]
    tar = encoded / "latents" / "image_64x64" / row["shard"]
    data = bytearray(tar.read_bytes())
    data[row["offset"] + row["size"] - 1] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DamagedSample, match=re.escape(f"{row['key']}.latent.safetensors is damaged")):
        take_down(config)


def test_runs_on_the_shards_are_found_with_those_started_from_them(encoded, tmp_path):
    manifest = read_manifest(encoded)
    shards = samples_digest(manifest)
    for name, inputs in {
        "seen": {"shards": shards, "init": "x"},
        "later": {"shards": "y", "init": "model of seen"},
        "latest": {"shards": "y", "init": "model of later"},
        "other": {"shards": "z", "init": "model of other"},
    }.items():
        OutputFolder.open(tmp_path / "runs" / name, "train", {}, inputs).publish({"model": f"model of {name}"})
    OutputFolder.open(tmp_path / "runs" / "unrelated", "curate", {}, {"shards": shards})
    assert [path.name for path in runs_on([tmp_path / "runs"], manifest)] == ["seen", "later", "latest"]
