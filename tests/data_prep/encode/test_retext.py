import os

import pytest
import torch

from data_prep.encode.retext import RetextConfig, link_or_copy, retext
from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import read_manifest
from lingen.text.encoders import build_text_encoder, parse_text_encoders


def test_a_shared_file_is_the_same_file_or_a_copy(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_text("x")
    (tmp_path / "a" / "y").write_text("y")
    link_or_copy(tmp_path / "a", tmp_path / "linked")
    assert (tmp_path / "linked" / "b" / "x").samefile(tmp_path / "a" / "b" / "x")
    link_or_copy(tmp_path / "a" / "y", tmp_path / "linked" / "b" / "x")  # replaces what is there
    assert (tmp_path / "linked" / "b" / "x").read_text() == "y"

    def refuse(*paths):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "a", tmp_path / "copied")
    assert (tmp_path / "copied" / "b" / "x").read_text() == "x"
    assert not (tmp_path / "copied" / "b" / "x").samefile(tmp_path / "a" / "b" / "x")


def test_latents_and_unchanged_text_are_shared_and_new_text_is_embedded(encoded, without_ray, tmp_path):
    config = RetextConfig(shards=encoded, output=tmp_path / "out", text=("lingen-tiny", "b=lingen-tiny,seed=7"))
    done = retext(config)
    assert (done.samples, done.embedded, done.shared) == (15, ["b"], ["lingen-tiny"])
    assert len(without_ray) == 5
    before, after = ShardIndex.open(encoded), ShardIndex.open(tmp_path / "out")
    assert [form.name for form in after.text_format] == ["b", "lingen-tiny"]
    encoder = build_text_encoder(parse_text_encoders(config.text)["b"])
    for name, bucket in before.buckets.items():
        (expected,) = encoder.encode([bucket.metadata(2)["caption"]])
        assert torch.allclose(after.buckets[name].read(2)[1][0].float(), expected, atol=1e-2)
    for path in encoded.rglob("*.tar"):
        assert path.samefile(tmp_path / "out" / path.relative_to(encoded))
    manifest = read_manifest(tmp_path / "out")
    assert (manifest["job"], manifest["config"]["text"]) == ("encode", list(config.text))
    assert not (tmp_path / "out" / "parts").exists()
    assert retext(config) == done
    assert len(without_ray) == 5, "finished: nothing is embedded again"


def test_a_text_encoder_that_cannot_be_read_is_refused_before_any_work(encoded, tmp_path):
    with pytest.raises(ValueError, match="--text: two encoders are called lingen-tiny"):
        RetextConfig(shards=encoded, output=tmp_path / "out", text=("lingen-tiny", "lingen-tiny,seed=1"))
