"""Output folders and whole files under faults: kills in the middle, links, other people's umask and files."""

import json
import os
import stat

import pytest

from lingen.data.shards import ShardWriter
from lingen.io import manifest
from lingen.io.manifest import OutputFolder


def claim(path, threshold, **options):
    return OutputFolder.open(path, "train", {"threshold": threshold}, {"clips": "abc"}, **options)


@pytest.fixture
def trained(tmp_path):
    """A finished run, with a checkpoint."""
    folder = claim(tmp_path / "run", 0.5)
    (folder.path / "checkpoints" / "step_00000003").mkdir(parents=True)
    (folder.path / "checkpoints" / "step_00000003" / "meta.json").write_text("{}")
    folder.publish({"steps": 3})
    return folder.path


@pytest.mark.parametrize("content", [{"key": "mine"}, {"job": "train", "key": "x", "config": {}, "inputs": {}}, [1], 7])
def test_a_persons_config_json_protects_the_folder(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "thesis.txt").write_text("years")
    for overwrite in (True, False):
        with pytest.raises(ValueError, match="was not made by this job"):
            claim(tmp_path, 0.5, overwrite=overwrite)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/step_00000003/eval.json", "checkpoints/best/meta.json"])
def test_a_folder_with_a_persons_files_is_moved_aside_whole(trained, name, caplog):
    (trained / name).parent.mkdir(parents=True, exist_ok=True)
    (trained / name).write_text("mine")
    claim(trained, 0.7, overwrite=True)
    assert [p.name for p in trained.iterdir()] == ["config.json"]
    (aside,) = trained.parent.glob("run.replaced-*")
    assert (aside / name).read_text() == "mine"
    assert (aside / "checkpoints" / "step_00000003" / "meta.json").exists()
    assert manifest.read_manifest(aside)["outputs"] == {"steps": 3}
    assert f"did not write ({name}): it is now {aside}" in caplog.text


def test_what_a_link_in_the_folder_points_to_survives(trained, tmp_path):
    big = tmp_path / "big_disk"
    (trained / "checkpoints").rename(big)
    (trained / "checkpoints").symlink_to(big)
    (trained / "skipped.jsonl").symlink_to(tmp_path / "log")
    (tmp_path / "log").write_text("mine")
    claim(trained, 0.7, overwrite=True)
    assert (big / "step_00000003" / "meta.json").exists()
    assert (tmp_path / "log").read_text() == "mine"


def test_a_linked_output_folder_resumes_but_is_not_replaced(trained, tmp_path):
    (tmp_path / "link").symlink_to(trained)
    assert claim(tmp_path / "link", 0.5, overwrite=True).finished
    with pytest.raises(ValueError, match="is a link; name the folder itself"):
        claim(tmp_path / "link", 0.7, overwrite=True)
    assert manifest.read_manifest(trained)["outputs"] == {"steps": 3}


@pytest.mark.parametrize("removals", [1, 2])
def test_a_kill_while_a_folder_is_replaced_leaves_one_that_can_be_replaced(trained, monkeypatch, removals):
    unlink, left = os.unlink, iter(range(removals))

    def killed(*arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        unlink(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed)
        if removals == 2:  # all is removed; killed before the new claim is written
            patch.setattr(manifest, "write_json", lambda *arguments: killed(trained / "absent"))
        with pytest.raises(KeyboardInterrupt):
            claim(trained, 0.7, overwrite=True)
    assert not (trained / "manifest.json").exists(), "it must not seem finished"
    with pytest.raises(ValueError, match=r"threshold: 0\.5 there, 0\.7 now"):
        claim(trained, 0.7)
    assert not claim(trained, 0.7, overwrite=True).finished
    assert [p.name for p in trained.iterdir()] == ["config.json"]
    assert not list(trained.parent.glob("*.replaced-*"))


def test_a_file_that_cannot_be_written_is_named_not_its_hidden_copy(tmp_path):
    (tmp_path / "file").touch()
    for write in (manifest.check_writable, manifest.create_partial):
        with pytest.raises((NotADirectoryError, FileExistsError)) as error:
            write(tmp_path / "file" / "a.png")
        assert error.value.filename in (str(tmp_path / "file"), str(tmp_path / "file" / "a.png"))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read_what_is_written(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        manifest.write_atomic(tmp_path / "a.json", "1")
        manifest.write_atomic(tmp_path / "a.json", "2")
        with ShardWriter(tmp_path / "000000.tar"):
            pass
    finally:
        os.umask(before)
    for name in ("a.json", "000000.tar"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode, name


def test_removing_a_cut_off_line_never_holds_less_than_the_whole_lines(tmp_path, monkeypatch):
    """Written anew, the file is empty for a moment: a kill then loses every metric."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a"')
    shared = tmp_path / "shared"
    os.link(path, shared)
    real, sizes = os.truncate, []
    monkeypatch.setattr(manifest.os, "truncate", lambda p, size: (sizes.append(size), real(p, size)))
    assert manifest.whole_lines(path) == [b'{"a": 1}\n']
    assert sizes == [9]
    assert shared.read_bytes() == b'{"a": 1}\n'
