import glob
import os
import subprocess
import time
from pathlib import Path

import pytest

from data_prep.sources.listing import expand, fixed_folder, is_pattern, read_sidecar, sidecars, walk
from data_prep.sources.manifest import SourceConfig, digest_source, read_source


def names(where):
    rows = read_source(str(where), SourceConfig(), need_license=False).to_pylist()
    return [os.path.basename(row["uri"]) for row in rows]


@pytest.mark.parametrize("name", ["clips [2024]", "what?", "a*b", "[x]"])
def test_a_folder_is_taken_literally_whatever_its_name(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.mp4").write_bytes(b"x")
    (tmp_path / name / "m.csv").write_text("uri,license\na.mp4,MIT\n")
    (tmp_path / "x").mkdir()  # what [x] would match
    (tmp_path / "x" / "wrong.mp4").write_bytes(b"x")
    assert names(tmp_path / name) == ["a.mp4"]
    assert names(tmp_path / name / "m.csv") == ["a.mp4"]
    before = digest_source(str(tmp_path / name), SourceConfig())
    (tmp_path / name / "b.mp4").write_bytes(b"x")
    assert digest_source(str(tmp_path / name), SourceConfig()) != before
    assert names(f"{tmp_path}/[x]/*.mp4") == ["wrong.mp4"]  # more than a name: a pattern


PATTERNS = [
    "**",
    "**/*",
    "**/*.mp4",
    "a/**/x.mp4",
    "*/**",
    "**/b/**/*.mp4",
    "**/**/x.mp4",
    "**/[xy].mp[!3]",
    "a/**/?.mp4",
]
PATTERNS += ["**/.h/*.mp4", "**/*]*", "**/a[[]b", "a/**/.*", "./**/x.mp4", "**/[!x].mp4", "**/[^x].mp4"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_what_they_match_in_python(pattern, tmp_path, monkeypatch):
    for name in (
        "x.mp4",
        "y.mp3",
        "a/x.mp4",
        "a/b/x.mp4",
        "a/b/c/y.mp4",
        ".h/x.mp4",
        "a/.h/x.mp4",
        "a/.y.mp4",
        "b/a[b",
        "d]/^.mp4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    expected = sorted({Path(p) for p in glob.glob(pattern, recursive=True) if os.path.isfile(p)})
    found = [p for p in expand(pattern) if p.is_file()]
    if "/.h/" in pattern or pattern.endswith(".*"):
        assert set(found) <= set(expected)
    else:
        assert found == expected
        assert [tmp_path / p for p in found] == [p for p in expand(f"{tmp_path}/{pattern}") if p.is_file()]


def test_loops_of_links_are_not_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").write_bytes(b"x")
    for name in ("loop1", "loop2", "loop3"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
    began = time.monotonic()
    for where in (f"{tmp_path}/**/*.mp4", f"{tmp_path}/**", tmp_path, f"{tmp_path}/*/*.mp4"):
        assert names(where) == ["x.mp4"]
        digest_source(str(where), SourceConfig())
    assert time.monotonic() - began < 5


def test_folders_deeper_than_pythons_stack_are_walked(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1010):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("x.mp4", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    try:
        found = list(walk(tmp_path))
        assert [p.name for p in found] == ["x.mp4"]
        assert found == expand(f"{tmp_path}/**/*.mp4")
    finally:
        subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # pytest could not


def test_a_pattern_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--input: .* is no pattern"):
        expand(f"{tmp_path}/**/[z-a].mp4")
    assert is_pattern(f"{tmp_path}/[a]")
    assert not is_pattern(str(tmp_path))
    assert fixed_folder(f"{tmp_path}/a/*/b/*.mp4") == tmp_path / "a"
    assert fixed_folder("*.mp4") == Path()


def test_sidecars_are_read_like_data(tmp_path):
    clip = tmp_path / "a.mp4"
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "a.json").write_text('{"caption": "x", "license": 3, "uri": "/etc/passwd", "bad": "b", "row": 1}')
    assert sidecars(clip) == [tmp_path / "a.json", tmp_path / "a.txt"]
    assert read_sidecar(tmp_path / "a.json") == {"caption": "x"}
    assert read_sidecar(tmp_path / "a.txt") == {}  # a pipe: reading it would wait for ever
    for text in ("[1]", "[" * 100_000, "{", '{"a": ' + "9" * 5000 + "}", '{"caption": "' + "x" * (1 << 20) + '"}', ""):
        (tmp_path / "a.json").write_text(text)
        assert read_sidecar(tmp_path / "a.json") == {}
    assert read_sidecar(tmp_path / "no.json") == {}
