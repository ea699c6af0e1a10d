import dataclasses
import re

import pyarrow.parquet as pq
import pytest

from data_prep.encode.error_table import ERROR_COLUMNS, ERRORS, read_errors, write_errors
from data_prep.encode.retext import RetextConfig, retext
from data_prep.encode.summary import EncodeSummary, canary_alarms
from data_prep.encode.takedown import ShardTakedownConfig, runs_on, take_down
from lingen.data.index_file import INDEX, read_index, samples_digest, write_index
from lingen.data.shard_index import ShardIndex
from lingen.data.shards import DamagedSample
from lingen.io.manifest import OutputFolder, read_manifest, write_json

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


def test_a_warning_that_names_a_removed_sample_is_made_anew(encoded, config, tmp_path):
    """A canary of the removed clip decodes badly; another one does too, and stays."""
    manifest = read_manifest(encoded)
    index = ShardIndex.open(encoded).buckets["image_64x64"]
    for bucket in manifest["outputs"]["summary"]["buckets"]:
        bucket["canaries"] = []
    path = encoded / "latents" / "image_64x64" / INDEX
    table, form = read_index(path)
    rows = table.to_pylist()
    rows[2]["canary_psnr"], rows[3]["canary_psnr"] = 3.0, 4.0
    write_index(path, rows, form)
    manifest["outputs"]["summary"]["warnings"] = [f"1 of 2 canaries, {index.key(2)} for one", "something else"]
    write_json(encoded / "manifest.json", manifest)
    take_down(config)
    summary = EncodeSummary.from_folder(tmp_path / "out")
    assert summary.warnings == canary_alarms(15.0, summary.buckets)
    assert [index.key(3) in warning for warning in summary.warnings] == [True]
    assert GONE not in (tmp_path / "out" / "manifest.json").read_text()


def test_error_rows_of_clips_without_any_sample_go_too(encoded, config, tmp_path):
    def errors_after(listed, name):
        config.takedown.write_text(listed)
        take_down(dataclasses.replace(config, output=tmp_path / name))
        return [row["clip_id"][15] for row in read_errors(tmp_path / name)]

    rows = [
        dict.fromkeys(ERROR_COLUMNS, "")
        | {"clip_id": f"{i:016x}-0-1000", "uri": f"/clips/{i}.mp4", "reason": "truncated"}
        for i in (1, 10, 11)  # the first has samples, the others have none
    ]
    write_errors(encoded, rows)
    assert errors_after(f"content\n{10:016x}-0-1000\n", "content") == ["1", "b"]
    assert errors_after("uri\n11.mp4\n", "uri") == ["1", "a"]
    assert errors_after("license\nno-such-license\n", "license") == ["1"], "of the others no licence is known"
    assert EncodeSummary.from_folder(tmp_path / "license").errors == {"truncated": 1}


def test_a_folder_of_jobs_retext_is_taken_down_from(encoded, config, without_ray, tmp_path):
    retext(RetextConfig(shards=encoded, output=tmp_path / "new", text=("lingen-tiny", "b=lingen-tiny,seed=7")))
    config = dataclasses.replace(config, shards=tmp_path / "new")
    assert len(take_down(config).samples) == 2
    assert [row["clip_id"] for row in read_errors(tmp_path / "out")] == [f"{99:016x}-0-1000"]
    (tmp_path / "new" / ERRORS).unlink()  # an older jobs/retext.py left it out
    assert len(take_down(dataclasses.replace(config, output=tmp_path / "out2")).samples) == 2
    assert read_errors(tmp_path / "out2") == []


def hostile(encoded, tree, **changes):
    """Say something else in the rows of the first shard of an index of images."""
    path = encoded / tree / "image_64x64" / INDEX
    table, form = read_index(path)
    rows = [row | changes if row["shard"] == "000000.tar" else row for row in table.to_pylist()]
    write_index(path, rows, form)


@pytest.mark.parametrize("tree", ["latents", "text/lingen-tiny"])
@pytest.mark.parametrize("shard", ["ABSOLUTE/precious.tar", "../../../precious.tar", "..", "a/000000.tar", "x\n.tar"])
def test_an_index_that_names_other_files_deletes_and_overwrites_none(encoded, config, tmp_path, tree, shard):
    (tmp_path / "precious.tar").write_text("precious")
    hostile(encoded, tree, shard=shard.replace("ABSOLUTE", str(tmp_path)))
    with pytest.raises(ValueError, match=re.escape(f"{tree}/image_64x64/{INDEX}: shard")):
        take_down(config)
    assert (tmp_path / "precious.tar").read_text() == "precious"
    assert not (tmp_path / "out").exists()


def test_links_out_of_the_folder_are_not_followed(encoded, config, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (encoded / "tae" / "more.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"tae/more.json leads out of this folder, to .*secret"):
        take_down(config)
    (encoded / "tae" / "more.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "text").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads out of this folder"):
        take_down(config)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_folder_that_is_read_is_not_replaced(encoded, config):
    for output in (encoded, encoded / "out", encoded.parent):
        with pytest.raises(ValueError, match=r"--output: .* and --shards .* overlap; choose a folder beside it"):
            take_down(dataclasses.replace(config, output=output, overwrite=True))
    assert ShardIndex.open(encoded)


def test_what_is_not_a_run_does_not_end_the_search_for_runs(encoded, tmp_path):
    for name, content in {"a": "[", "b": "[]", "c": '{"job": "train"}', "d": '{"job": "train", "inputs": []}'}.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text(content)
    assert runs_on([tmp_path / "runs"], read_manifest(encoded)) == []
