import re

import pytest

from lingen.io.inside import inside, require_apart


def test_a_path_in_the_folder_is_given_with_its_links_followed(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    assert inside(tmp_path, "new.png") == tmp_path / "new.png"
    assert inside(tmp_path, "link/x") == tmp_path / "here" / "x"
    assert inside(tmp_path / "link", "x") == tmp_path / "here" / "x", "the folder itself may be a link"
    assert inside(tmp_path, "here/../x") == tmp_path / "x"


@pytest.mark.parametrize("name", ["..", "../folder-of-others/x", "/etc/passwd", "link", "link/x", "a/../../x"])
def test_a_path_out_of_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "folder-of-others").mkdir()
    (folder / "link").symlink_to(tmp_path / "folder-of-others")
    with pytest.raises(ValueError, match=re.escape(f"{folder}: {name} leads out of this folder, to /")):
        inside(folder, name)


def test_folders_that_overlap_are_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    require_apart(tmp_path / "b", tmp_path / "a", "--shards")
    require_apart(tmp_path / "a2", tmp_path / "a", "--shards")
    for output in ("a", "a/b", ".", "link", "link/b"):
        with pytest.raises(ValueError, match=r"--output: .* and --shards .* overlap"):
            require_apart(tmp_path / output, tmp_path / "a", "--shards")
