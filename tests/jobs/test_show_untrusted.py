"""jobs/show.py on folders of somebody else: nothing is written outside of --decode, and a terminal only shows."""

import dataclasses
import json

import pytest

from jobs.show import ShowConfig, run
from lingen.data.index_file import INDEX, read_index, write_index
from lingen.data.shard_index import ShardIndex
from lingen.data.shards import LATENT, METADATA, ShardWriter, read_shard
from lingen.data.synthetic import write_random_encoding

BUCKET = "video_32x32_9f"


@pytest.fixture
def folder(tmp_path):
    """An encoded folder of two buckets, whose samples have equal keys."""
    return write_random_encoding(tmp_path / "given" / "encoded", {BUCKET: 2, "video_32x48_9f": 2})


@pytest.fixture
def config(folder, tmp_path):
    return ShowConfig(target=str(folder / "latents" / BUCKET / "000000.tar"), decode=tmp_path / "mine" / "look")


def written(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.suffix in (".png", ".mp4"))


def rewrite(tar, monkeypatch, key=None, **metadata):
    """Write a tar again with another key, or other metadata, as an attacker may: without our checks."""
    members = list(read_shard(tar))
    monkeypatch.setattr("lingen.data.shards._check_member", lambda path, name, size: None)
    with ShardWriter(tar) as out:
        for name, kind, data in members:
            content = json.dumps(json.loads(data) | metadata).encode() if kind == METADATA else data
            out.add(key or name, kind, content)
    monkeypatch.undo()


def test_samples_are_decoded_into_the_folder(config, tmp_path):
    run(config)
    key = "video00000000_w0000"
    assert written(tmp_path) == [f"mine/look/{key}.mp4", f"mine/look/{key}.png"]


@pytest.mark.parametrize("key", ["../outside_w0000", "ABSOLUTE/outside_w0000", "..", "a/b_w0000"])
def test_a_member_that_names_another_place_is_not_decoded(config, tmp_path, monkeypatch, key):
    rewrite(config.target, monkeypatch, key.replace("ABSOLUTE", str(tmp_path)))
    with pytest.raises(ValueError, match=r"is not KEY\.EXTENSION of a sample"):
        run(config)
    assert written(tmp_path) == []


def test_an_index_that_names_another_place_is_not_decoded(config, folder, tmp_path):
    path = folder / "latents" / BUCKET / INDEX
    table, form = read_index(path)
    stolen = tmp_path / "stolen.tar"
    stolen.write_bytes((folder / "latents" / BUCKET / "000000.tar").read_bytes())
    write_index(path, [row | {"shard": str(stolen)} for row in table.to_pylist()], form)
    with pytest.raises(ValueError, match="is not the plain name of a tar"):
        run(dataclasses.replace(config, target=str(path)))
    assert written(tmp_path) == []


def test_a_link_in_the_folder_for_decoded_samples_is_not_followed(config, tmp_path):
    config.decode.mkdir(parents=True)
    (config.decode / "video00000000_w0000.mp4").symlink_to(tmp_path / "precious.mp4")
    with pytest.raises(ValueError, match="leads out of this folder"):
        run(config)
    assert not (tmp_path / "precious.mp4").exists()


def test_terminal_escapes_are_shown_not_obeyed(config, monkeypatch, capsys):
    rewrite(config.target, monkeypatch, license="\x1b]0;title\x07", caption="\x1b[2Jgone")
    run(dataclasses.replace(config, decode=None))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b]0;title\\x07" in shown


def test_a_key_in_two_buckets_is_shown_and_decoded_twice(config, folder, tmp_path, capsys):
    key = ShardIndex.open(folder).buckets[BUCKET].key(1)
    run(dataclasses.replace(config, target=key, shards=folder))
    shown = capsys.readouterr().out
    assert f"{key} in {BUCKET}, row 1" in shown
    assert f"{key} in video_32x48_9f, row 1" in shown
    assert written(tmp_path) == [
        f"mine/look/{key}.{bucket}.{kind}" for bucket in (BUCKET, "video_32x48_9f") for kind in ("mp4", "png")
    ]


def test_a_sample_of_another_kind_is_refused_in_one_line(config, monkeypatch):
    rewrite(config.target, monkeypatch, bucket="../../x")
    with pytest.raises(ValueError, match=r"bucket: '\.\./\.\./x' is not like image_64x64"):
        run(config)
    with ShardWriter(config.target) as tar:
        tar.add("a_w0000", LATENT, b"noise")
        tar.add("a_w0000", METADATA, b"{}")
    with pytest.raises(ValueError, match="a_w0000: not a safetensors file"):
        run(config)
