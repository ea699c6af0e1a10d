import gzip
import io
import os
import random
import subprocess
import tarfile

import pytest

from data_prep.media.errors import MediaError
from data_prep.media.fetch import local_copy, stamp
from data_prep.media.probe import probe
from data_prep.sources.manifest import SourceConfig, read_source


def read(path):
    return read_source(str(path), SourceConfig(), need_license=False).to_pylist()


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def shard(clips, tmp_path):
    path = tmp_path / "clips-000.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "set/0001.mkv", (clips / "videos" / "sample-videos_milk.mkv").read_bytes())
        add(tar, "set/0001.txt", b"A sign.")
        add(tar, "set/0001.json", b'{"license": "CC-BY-4.0", "uri": "/etc/passwd", "attribution": "someone"}')
        add(tar, "../../escape.jpg", (clips / "photos" / "test_data_owl.jpg").read_bytes())
        link = tarfile.TarInfo("evil.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "broken.json", b"{")
    return path


def test_members_become_rows_with_their_columns(shard):
    for where in (shard, shard.parent):
        rows = read(where)
        assert len(rows) == 2
        assert (rows[0]["caption"], rows[0]["license"], rows[0]["attribution"]) == ("A sign.", "CC-BY-4.0", "someone")
        assert rows[0]["uri"].startswith(f"{shard}#")
    with local_copy(rows[0]["uri"]) as path:
        assert (probe(path).codec, probe(path).frame_count) == ("h264", 51)
    with local_copy(rows[1]["uri"]) as path:
        assert probe(path).media_type == "image"
    assert not (shard.parent.parent / "escape.jpg").exists()
    assert stamp(rows[0]["uri"]) != stamp(rows[1]["uri"]) != ""


def test_a_cut_tar_keeps_its_members_up_to_the_cut_and_says_so(shard):
    rows = read(shard)
    shard.write_bytes(shard.read_bytes()[:60_000])
    cut = read(shard)
    assert [row["uri"] for row in cut] == [rows[0]["uri"], str(shard)]
    assert [row["bad"].partition(" bytes")[0] for row in cut] == ["", "bad_tar: it ends 58703"]
    with pytest.raises(MediaError) as error, local_copy(rows[0]["uri"]):
        pass
    assert error.value.reason == "truncated"


def test_a_tar_without_its_end_marks_is_whole(shard):
    data, rows = shard.read_bytes().rstrip(b"\0"), read(shard)
    shard.write_bytes(data + bytes(-len(data) % 512))
    assert read(shard) == rows
    shard.write_bytes(data)  # not even the padding of the last member
    assert read(shard) == rows


def test_the_columns_of_hostile_texts(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for i, text in enumerate(
            (b"[" * 100_000, b"[1]", b'{"license": {"a": 1}, "caption": 3, "bad": "x", "row": "y"}')
        ):
            add(tar, f"{i}.mp4", b"x")
            add(tar, f"{i}.json", text)
        add(tar, "0.txt", b"x" * (1 << 20))
        add(tar, "1.txt", b"x" * ((1 << 20) + 1))
    rows = read(path)
    assert [row["bad"] for row in rows] == [""] * 3
    assert [len(row["caption"]) for row in rows] == [4000, 0, 1]
    assert [row["license"] for row in rows] == ["", "", "{'a': 1}"]


@pytest.mark.parametrize("kind", ["pipe", "not a tar", "empty", "compressed", "a folder's link", "nothing inside"])
def test_what_is_no_tar_is_refused_when_named_and_a_row_in_a_folder(kind, tmp_path, shard):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "x.tar"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "a folder's link":
        path.symlink_to("/dev/zero")
    elif kind == "compressed":
        path.write_bytes(gzip.compress(shard.read_bytes()))
    else:
        path.write_bytes({"not a tar": b"not a tar at all" * 100, "empty": b"", "nothing inside": bytes(10240)}[kind])
    with pytest.raises(ValueError, match=r"--input: .*tar"):
        read(path)
    (folder / "a.mp4").write_bytes(b"x")
    rows = {row["uri"]: row["bad"].partition(":")[0] for row in read(folder)}
    expected = {"pipe": "not_a_file", "a folder's link": "outside_root", "nothing inside": None}.get(kind, "bad_tar")
    assert rows == {str(folder / "a.mp4"): ""} | ({str(path): expected} if expected else {})


def test_sparse_members_are_rows_with_a_reason(tmp_path):
    path = tmp_path / "x.tar"
    with open(tmp_path / "big.mp4", "wb") as f:
        f.write(b"start")
        f.truncate(1 << 40)
    for form in ("gnu", "posix"):
        tar = ["tar", f"--format={form}", "--sparse", "-C", str(tmp_path), "-cf", str(path), "big.mp4"]
        subprocess.run(tar, check=True)
        (row,) = read(path)
        assert row["bad"].startswith("bad_tar: big.mp4 is stored sparse") or "GNUSparseFile" in row["bad"]


def test_tars_damaged_at_random_become_rows_or_one_error(shard, tmp_path):
    whole, path = shard.read_bytes(), tmp_path / "damaged.tar"
    outcomes = set()
    for seed in range(400):
        generator, data = random.Random(seed), bytearray(whole)
        headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
        for _ in range(generator.choice((1, 2, 5))):
            at = generator.choice(headers) + generator.choice((0, 124, 130, 148, 156, 257, 345, 482))
            data[at] = generator.choice((0, 0x20, 0x2D, 0x30, 0x4C, 0x53, 0x67, 0x78, 0x80, 0xFF))
        for at in headers:  # most readers stop at a wrong sum: make it right
            if generator.random() < 0.8:
                total = sum(data[at : at + 148]) + 256 + sum(data[at + 156 : at + 512])
                data[at + 148 : at + 156] = b"%06o\0 " % total
        path.write_bytes(data)
        try:
            outcomes |= {row["bad"].partition(":")[0] for row in read(path)}
        except ValueError as error:
            outcomes.add(str(error).partition(" ")[0])
    assert outcomes == {"", "bad_tar", "--input:"}
