"""jobs/takedown.py on shards of real clips."""

import dataclasses

import pytest
import torch

from data_prep.encode.summary import EncodeSummary
from data_prep.encode.takedown import ShardTakedownConfig, take_down
from lingen.data.index_file import samples_digest
from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import OutputFolder, read_manifest

pytestmark = pytest.mark.slow


def test_a_takedown_leaves_no_byte_of_its_samples_and_every_other(encoded, tmp_path):
    before = ShardIndex.open(encoded[0])
    bucket = max((b for b in before.buckets.values() if b.bucket.media == "video"), key=len)
    gone = bucket.key(1).partition("-")[0]
    (tmp_path / "t.csv").write_text(f"content,uri\n{bucket.key(1)},\n,no/such/file.mp4\n")
    runs = {"seen": ("x", "s"), "later": ("y", "m"), "other": ("z", "n")}
    manifest = read_manifest(encoded[0])
    for name, (shards, init) in runs.items():
        made = {"shards": samples_digest(manifest) if name == "seen" else shards, "init": init}
        run = OutputFolder.open(tmp_path / "runs" / name, "train", {}, made)
        run.publish({"model": "m" if name == "seen" else name})
    config = ShardTakedownConfig(
        shards=encoded[0], takedown=tmp_path / "t.csv", output=tmp_path / "out", runs=(tmp_path / "runs",)
    )
    only_listed = take_down(dataclasses.replace(config, output=None))
    assert not (tmp_path / "out").exists()
    affected = take_down(config)
    assert affected == only_listed
    assert [path.name for path in affected.runs] == ["seen", "later"]
    keys = {key for _, _, key, _ in affected.samples}
    assert bucket.key(1) in keys
    assert keys == {k for b in before.buckets.values() for k in b.keys(range(len(b))) if k.startswith(gone)}
    after = ShardIndex.open(tmp_path / "out")
    after.check_files()
    assert len(after) == len(before) - len(keys)
    for name, old in before.buckets.items():
        stay = [k for k in old.keys(range(len(old))) if k not in keys]
        assert (after.buckets[name].keys(range(len(after.buckets[name]))) if stay else []) == stay
        for key in stay:
            latent, text = after.buckets[name].read(after.buckets[name].row(key))
            was = old.read(old.row(key))
            assert torch.equal(latent, was[0])
            assert torch.equal(text[0], was[1][0])
            assert after.buckets[name].metadata(after.buckets[name].row(key)) == old.metadata(old.row(key))
    names = [p.relative_to(encoded[0]) for p in encoded[0].glob("*/*/*.tar")]
    shared = [n for n in names if (tmp_path / "out" / n).exists() and (tmp_path / "out" / n).samefile(encoded[0] / n)]
    assert 0 < len(shared) < len(names)
    assert not any(gone.encode() in p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert samples_digest(read_manifest(tmp_path / "out")) != samples_digest(manifest)
    assert EncodeSummary.from_folder(tmp_path / "out").samples == len(after)
    assert take_down(config) == affected  # finished: nothing is done again
