import io
import tarfile

import pytest

from data_prep.media.errors import MediaError
from data_prep.media.fetch import local_copy, stamp
from data_prep.media.probe import probe
from data_prep.sources.manifest import SourceConfig, read_source


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
        rows = read_source(str(where), SourceConfig(), need_license=False).to_pylist()
        assert len(rows) == 2
        assert (rows[0]["caption"], rows[0]["license"], rows[0]["attribution"]) == ("A sign.", "CC-BY-4.0", "someone")
        assert rows[0]["uri"].startswith(f"{shard}#")
    with local_copy(rows[0]["uri"]) as path:
        assert (probe(path).codec, probe(path).frame_count) == ("h264", 51)
    with local_copy(rows[1]["uri"]) as path:
        assert probe(path).media_type == "image"
    assert not (shard.parent.parent / "escape.jpg").exists()
    assert stamp(rows[0]["uri"]) != stamp(rows[1]["uri"]) != ""


def test_a_cut_tar_keeps_its_members_up_to_the_cut_and_other_files_are_refused(shard):
    rows = read_source(str(shard), SourceConfig(), need_license=False).to_pylist()
    shard.write_bytes(shard.read_bytes()[:60_000])
    cut = read_source(str(shard), SourceConfig(), need_license=False).to_pylist()
    assert [row["uri"] for row in cut] == [rows[0]["uri"]]
    with pytest.raises(MediaError) as error, local_copy(rows[0]["uri"]):
        pass
    assert error.value.reason == "truncated"
    shard.write_bytes(b"not a tar at all" * 100)
    with pytest.raises(ValueError, match="tar"):
        read_source(str(shard), SourceConfig(), need_license=False)
