import os

import pytest
import torch

from data_prep.encode import texts
from data_prep.encode.error_table import ERROR_COLUMNS, ERRORS, read_errors
from data_prep.encode.parts import DEATHS
from data_prep.encode.retext import RetextConfig, retext, share
from data_prep.encode.summary import EncodeSummary
from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import read_manifest, write_json
from lingen.text.encoders import build_text_encoder, parse_text_encoders


def test_a_shared_file_is_the_same_file_or_a_copy(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_text("x")
    (tmp_path / "linked" / "b").mkdir(parents=True)
    (tmp_path / "linked" / "b" / "x").write_text("replaced")
    share(tmp_path / "a", tmp_path / "linked", ["b/x"])
    assert (tmp_path / "linked" / "b" / "x").samefile(tmp_path / "a" / "b" / "x")

    def refuse(*paths):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    share(tmp_path / "a", tmp_path / "copied", ["b/x"])
    assert (tmp_path / "copied" / "b" / "x").read_text() == "x"
    assert not (tmp_path / "copied" / "b" / "x").samefile(tmp_path / "a" / "b" / "x")


@pytest.mark.parametrize("name", ["../secret", "link", "folder/secret", "ABSOLUTE", "out/x"])
def test_nothing_is_shared_from_or_to_another_place(tmp_path, name):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (old / "link").symlink_to(tmp_path / "secret")
    (old / "folder").symlink_to(tmp_path)
    (old / "out").mkdir()
    (old / "out" / "x").write_text("x")
    (new / "out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of this folder"):
        share(old, new, [str(tmp_path / "secret") if name == "ABSOLUTE" else name])
    assert (tmp_path / "secret").read_text() == "secret"
    assert [path.name for path in new.iterdir()] == ["out"]
    assert not (tmp_path / "x").exists()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a file"):
        share(tmp_path, tmp_path / "new", ["pipe"])


def test_latents_and_unchanged_text_are_shared_and_new_text_is_embedded(encoded, without_ray, tmp_path):
    (encoded / "latents" / "image_64x64" / "notes.txt").write_text("no index names this")
    config = RetextConfig(shards=encoded, output=tmp_path / "out", text=("lingen-tiny", "b=lingen-tiny,seed=7"))
    done = retext(config)
    assert not list((tmp_path / "out").rglob("notes.txt"))
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
    assert read_errors(tmp_path / "out") == read_errors(encoded)
    assert len(read_errors(encoded)) == 2
    manifest = read_manifest(tmp_path / "out")
    assert (manifest["job"], manifest["config"]["text"]) == ("encode", list(config.text))
    assert not (tmp_path / "out" / "parts").exists()
    assert retext(config) == done
    assert len(without_ray) == 5, "finished: nothing is embedded again"


def test_a_text_encoder_that_cannot_be_read_is_refused_before_any_work(encoded, tmp_path):
    with pytest.raises(ValueError, match="--text: two encoders are called lingen-tiny"):
        RetextConfig(shards=encoded, output=tmp_path / "out", text=("lingen-tiny", "lingen-tiny,seed=1"))


def test_the_folder_that_is_read_is_not_written_to(encoded, tmp_path):
    for output in (encoded, encoded / "latents", tmp_path):
        with pytest.raises(ValueError, match=r"--output: .* and --shards .* overlap"):
            retext(RetextConfig(shards=encoded, output=output, text=("b=lingen-tiny,seed=7",), overwrite=True))
    assert ShardIndex.open(encoded)


def test_a_folder_of_an_older_retext_has_no_errors_to_share(encoded, without_ray, tmp_path):
    (encoded / ERRORS).unlink()
    retext(RetextConfig(shards=encoded, output=tmp_path / "out", text=("lingen-tiny",)))
    assert read_errors(tmp_path / "out") == []
    assert (tmp_path / "out" / ERRORS).is_file()


def test_a_folder_without_a_summary_is_refused_before_any_work(encoded, without_ray, tmp_path):
    manifest = read_manifest(encoded)
    del manifest["outputs"]["summary"]
    write_json(encoded / "manifest.json", manifest)
    with pytest.raises(ValueError, match=r"its manifest\.json has no summary of jobs/encode\.py; encode it again"):
        retext(RetextConfig(shards=encoded, output=tmp_path / "out", text=("b=lingen-tiny,seed=7",)))
    assert without_ray == []
    assert not (tmp_path / "out").exists()


def test_deaths_of_the_last_runs_workers_are_forgotten(encoded, without_ray, tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    config = RetextConfig(shards=encoded, output=tmp_path / "out", text=("b=lingen-tiny,seed=7",))
    with monkeypatch.context() as first:
        first.setattr("data_prep.encode.retext.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            retext(config)
    write_json(tmp_path / "out/parts/text/b/image_64x64/000000.in_hand", {"000000.tar": DEATHS + 1})
    assert retext(config).embedded == ["b"]


def test_captions_that_cannot_be_embedded_are_counted(encoded, without_ray, tmp_path, monkeypatch):
    row = dict.fromkeys(ERROR_COLUMNS, "") | {"clip_id": "x", "reason": "internal_error"}
    written = texts.write_text
    monkeypatch.setattr("data_prep.encode.retext.write_text", lambda *args: [row] if written(*args) == [] else None)
    retext(RetextConfig(shards=encoded, output=tmp_path / "out", text=("b=lingen-tiny,seed=7",)))
    assert read_errors(tmp_path / "out") == [*read_errors(encoded), row]
    assert EncodeSummary.from_folder(tmp_path / "out").errors == {"truncated": 2, "internal_error": 1}
