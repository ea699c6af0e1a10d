"""Writing whole files, digests of files, and who made a folder."""

import dataclasses
import hashlib
import json
import os

import pytest

from lingen.io import manifest
from lingen.io.manifest import OutputFolder


def test_a_files_digest_is_the_start_of_its_sha256(tmp_path):
    for size in (10, (1 << 20) + 1, 0):
        data = os.urandom(size)
        (tmp_path / "a").write_bytes(data)
        assert manifest.file_digest(tmp_path / "a") == hashlib.sha256(data).hexdigest()[:16]


@pytest.mark.parametrize(("content", "stored"), [("caf\u00e9\n", b"caf\xc3\xa9\n"), (b"\xff\x00", b"\xff\x00")])
def test_text_and_bytes_are_written_into_folders_that_need_not_exist(tmp_path, content, stored):
    path = tmp_path / "new" / "folder" / "a"
    for _ in range(2):
        manifest.write_atomic(path, content)
        assert path.read_bytes() == stored


def test_json_does_not_depend_on_the_order_of_keys(tmp_path):
    manifest.write_json(tmp_path / "a", {"x": 1, "y": 2})
    manifest.write_json(tmp_path / "b", {"y": 2, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert manifest.read_json(tmp_path / "a") == {"x": 1, "y": 2}


def test_the_first_error_of_a_write_is_the_one_that_is_raised(tmp_path, monkeypatch):
    """Also where a cleaner has removed the hidden file in the meantime."""

    def fail(source, target):
        os.unlink(source)
        raise OSError("the disk is gone")

    monkeypatch.setattr(manifest.os, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        manifest.write_atomic(tmp_path / "a", "x")


def test_whether_a_file_can_be_written_is_found_out_and_leaves_nothing(tmp_path):
    for path in (tmp_path / "a", tmp_path / "new" / "folder" / "b"):
        manifest.check_writable(path)
        assert list(path.parent.glob("*")) == list(path.parent.glob(".*")) == []
    (tmp_path / "a").write_text("old")
    manifest.check_writable(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    with pytest.raises(IsADirectoryError):
        manifest.check_writable(tmp_path / "new")


def test_sets_of_sets_are_sorted_alike_whatever_their_order():
    assert manifest.to_plain(frozenset({2, 1})) == manifest.to_plain({1, 2}) == [1, 2]
    assert manifest.to_plain([(1, {"b", "a"})]) == [[1, ["a", "b"]]]


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int = 2


def test_a_dataclass_is_its_fields_and_a_class_of_them_is_itself():
    assert manifest.to_plain({"x": Inner()}) == {"x": {"depth": 2}}
    assert manifest.to_plain(Inner) is Inner


@pytest.fixture
def claimed(tmp_path):
    """A folder that curate has claimed."""
    OutputFolder.open(tmp_path / "out", "curate", {"a": {"b": 1, "c": 2}}, {"clips": "x"})
    return tmp_path / "out"


def test_a_claim_is_read_back_whole(claimed):
    claim = manifest.read_claim(claimed)
    assert claim.pop("key")
    assert claim == {"job": "curate", "config": {"a": {"b": 1, "c": 2}}, "inputs": {"clips": "x"}}
    assert manifest.read_claim(claimed.parent) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda claim: "{",
        lambda claim: "[" * 100_000,
        lambda claim: json.dumps(["job", "key", "config", "inputs"]),
        lambda claim: json.dumps(claim | {"note": "mine"}),
        lambda claim: json.dumps({k: v for k, v in claim.items() if k != "inputs"}),
        lambda claim: json.dumps(claim | {"config": [1]}),
        lambda claim: json.dumps(claim | {"config": {"a": 2}}),
    ],
)
def test_a_config_json_that_no_job_of_ours_wrote_is_no_claim(claimed, change):
    (claimed / "config.json").write_text(change(json.loads((claimed / "config.json").read_text())))
    assert manifest.read_claim(claimed) is None
    with pytest.raises(ValueError, match="is not empty and was not made by this job"):
        OutputFolder.open(claimed, "curate", {}, {}, overwrite=True)


@pytest.mark.parametrize(
    ("config", "inputs", "difference"),
    [
        ({"a": {"b": 1, "c": 3}}, {"clips": "x"}, "a.c: 2 there, 3 now"),
        ({"a": {"b": 1, "c": 2, "d": 5}}, {"clips": "x"}, "a.d: None there, 5 now"),
        ({"a": {"b": 1, "c": 2}}, {"clips": "y"}, "clips: x there, y now"),
        ({"a": 7}, {"clips": "x"}, "a: {'b': 1, 'c': 2} there, 7 now"),
    ],
)
def test_the_first_difference_is_named(claimed, config, inputs, difference):
    with pytest.raises(ValueError, match="other settings") as refused:
        OutputFolder.open(claimed, "curate", config, inputs)
    assert f"({difference})" in str(refused.value)


def test_another_jobs_folder_is_named_and_never_replaced(claimed):
    with pytest.raises(ValueError, match=r"other settings \(made by jobs/curate\.py\)"):
        OutputFolder.open(claimed, "encode", {}, {})
    with pytest.raises(ValueError, match=r"was made by jobs/curate\.py, not by jobs/encode\.py"):
        OutputFolder.open(claimed, "encode", {}, {}, overwrite=True)


def test_an_empty_folder_is_taken_and_a_file_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert not OutputFolder.open(tmp_path / "empty", "curate", {}, {}).finished
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not a folder; name one"):
        OutputFolder.open(tmp_path / "file", "curate", {}, {})
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    with pytest.raises(ValueError, match="is not a folder; name one"):
        OutputFolder.open(tmp_path / "nowhere", "curate", {}, {})


def test_the_duration_is_recorded_where_the_start_is_known(claimed, monkeypatch):
    folder = OutputFolder.open(claimed, "curate", {"a": {"b": 1, "c": 2}}, {"clips": "x"})
    assert "seconds" not in folder.publish({})
    monkeypatch.setattr(manifest.time, "time", lambda: 107.26)
    assert folder.publish({}, started=100.0)["seconds"] == 7.3
    assert manifest.read_manifest(claimed)["seconds"] == 7.3


@pytest.mark.parametrize("notes", [0, 1, 2, 3])
def test_a_folder_is_emptied_only_of_what_the_job_wrote(claimed, notes, caplog):
    """A report that a person changed, and a person's notes: three are named, the others are dots."""
    folder = OutputFolder.open(claimed, "curate", {"a": {"b": 1, "c": 2}}, {"clips": "x"})
    (claimed / "report.html").write_text("made")
    folder.publish({"report.html": manifest.file_digest(claimed / "report.html"), "clips": 3})
    (claimed / "report.html").write_text("reviewed")
    for i in range(notes):
        (claimed / f"notes{i}.txt").write_text("mine")
    OutputFolder.open(claimed, "curate", {}, {}, overwrite=True)
    assert [p.name for p in claimed.iterdir()] == ["config.json"]
    (aside,) = claimed.parent.glob("out.replaced-*")
    assert (aside / "report.html").read_text() == "reviewed"
    assert len(list(aside.glob("notes*"))) == notes
    assert ("report.html, changed since" in caplog.text) == (notes < 3)
    assert (", ..." in caplog.text) == (notes == 3)


def test_what_only_the_job_wrote_is_removed(claimed):
    folder = OutputFolder.open(claimed, "curate", {"a": {"b": 1, "c": 2}}, {"clips": "x"})
    (claimed / "report.html").write_text("made")
    folder.publish({"report.html": manifest.file_digest(claimed / "report.html")})
    OutputFolder.open(claimed, "curate", {}, {}, overwrite=True)
    assert [p.name for p in claimed.iterdir()] == ["config.json"]
    assert not list(claimed.parent.glob("out.replaced-*"))


def test_a_damaged_manifest_is_reason_enough_to_move_a_folder_aside(claimed):
    (claimed / "manifest.json").write_text("{")
    OutputFolder.open(claimed, "curate", {}, {}, overwrite=True)
    (aside,) = claimed.parent.glob("out.replaced-*")
    assert (aside / "manifest.json").read_text() == "{"


def test_a_link_to_a_folder_is_not_replaced(claimed):
    link = claimed.parent / "link"
    link.symlink_to(claimed)
    with pytest.raises(ValueError, match="is a link; name the folder itself"):
        OutputFolder.open(link, "curate", {}, {}, overwrite=True)
    assert (claimed / "config.json").exists()
