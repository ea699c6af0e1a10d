import dataclasses

import pytest

from lingen.io import manifest
from lingen.io.manifest import OutputFolder


@dataclasses.dataclass(frozen=True)
class Config:
    threshold: float = 0.5
    tags: frozenset = frozenset({"b", "a"})


def open_folder(path, config=Config(), **kw):
    return OutputFolder.open(path, job="curate", config=config, inputs={"clips": "abc"}, **kw)


def test_same_settings_resume_and_finish(tmp_path):
    out = tmp_path / "out"
    assert not open_folder(out).finished
    open_folder(out).publish({"rows": 3})
    assert open_folder(out).finished
    assert manifest.read_manifest(out)["outputs"] == {"rows": 3}


def test_other_settings_are_refused_by_name(tmp_path):
    open_folder(tmp_path / "out")
    with pytest.raises(ValueError, match=r"threshold: 0\.5 there, 0\.7 now"):
        open_folder(tmp_path / "out", Config(threshold=0.7))


def test_overwrite_replaces(tmp_path):
    open_folder(tmp_path / "out").publish({})
    assert not open_folder(tmp_path / "out", Config(threshold=0.7), overwrite=True).finished


def test_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_text("mine")
    with pytest.raises(ValueError, match="not made by this job"):
        open_folder(tmp_path, overwrite=True)
    assert (tmp_path / "holiday.jpg").read_text() == "mine"


def test_require_manifest_names_field_and_job(tmp_path):
    with pytest.raises(ValueError, match=r"--curated.*run jobs/curate\.py"):
        manifest.require_manifest(tmp_path, "curate", "--curated")
    open_folder(tmp_path / "o").publish({})
    with pytest.raises(ValueError, match=r"written by jobs/curate\.py"):
        manifest.require_manifest(tmp_path / "o", "encode", "--shards")


def test_atomic_write_leaves_old_content_on_failure(tmp_path):
    path = tmp_path / "a.json"
    manifest.write_json(path, 1)
    with pytest.raises(TypeError):
        manifest.write_json(path, object())
    assert manifest.read_json(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_last_line_that_was_cut_off_is_removed(tmp_path):
    path = tmp_path / "log.jsonl"
    assert manifest.whole_lines(path) == []
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    assert manifest.whole_lines(path) == [b'{"a": 1}\n', b'{"a": 2}\n']
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    assert manifest.whole_lines(path) == [b'{"a": 1}\n', b'{"a": 2}\n']


def test_to_plain_converts_what_configurations_contain(tmp_path):
    value = {"config": Config(), 7: tmp_path, "pair": (1, None)}
    plain = {"config": {"threshold": 0.5, "tags": ["a", "b"]}, "7": str(tmp_path), "pair": [1, None]}
    assert manifest.to_plain(value) == plain


def test_digest_ignores_order():
    assert manifest.digest({"a": 1, "b": {2, 1}}) == manifest.digest({"b": [1, 2], "a": 1})


@dataclasses.dataclass(frozen=True)
class RemoteConfig:
    input: str
    output: str = "/o"


def test_secrets_are_not_written_and_do_not_decide_the_key(tmp_path):
    first = RemoteConfig("s3://K:SECRET@b/m.csv?session_token=SECRET2")
    folder = open_folder(tmp_path / "out", first)
    folder.publish({})
    for name in (manifest.CONFIG, manifest.MANIFEST):
        text = (tmp_path / "out" / name).read_text()
        assert "SECRET" not in text
        assert "s3://***@b/m.csv?session_token=***" in text
    assert open_folder(tmp_path / "out", RemoteConfig("s3://K2:OTHER@b/m.csv?session_token=OTHER2")).finished
    with pytest.raises(ValueError, match=r"input: .* there, .* now") as error:
        open_folder(tmp_path / "out", RemoteConfig("s3://K:SECRET@b/other.csv"))
    assert "SECRET" not in str(error.value)
    manifest.write_json(tmp_path / "a.json", {"s3://K:SECRET@b": [("https://h/?token=SECRET",)]})
    assert manifest.read_json(tmp_path / "a.json") == {"s3://***@b": [["https://h/?token=***"]]}


def test_keys_without_secrets_are_those_of_version_0_1_0(tmp_path):
    assert open_folder(tmp_path / "out").key == "9b3522a5446e7bf2"
    assert open_folder(tmp_path / "b", RemoteConfig("s3://bucket/a@b?x=1")).key == "94d2933f64f9ecaa"
