import os

import pytest
import ray

from data_prep.curate.job import CurateConfig, curate
from data_prep.media.errors import MediaError
from data_prep.media.fetch import content_hash, file_of, is_remote, local_copy, local_path, stamp
from data_prep.sources.manifest import SourceConfig, read_source
from lingen.io.temporary import PREFIX


@pytest.fixture(scope="module")
def bucket(clips, s3_server):
    """s3://clips on a local S3 server, with a manifest and two clips under set/."""
    ray.shutdown()  # workers of a Ray that other tests started do not know this server
    manifest = "uri,license,caption\nmilk.mkv,CC-BY-4.0,A sign.\nsub/owl.jpg,CC-BY-2.0,An owl.\n../x.mp4,MIT,x\n"
    for key, data in {
        "milk.mkv": (clips / "videos" / "sample-videos_milk.mkv").read_bytes(),
        "sub/owl.jpg": (clips / "photos" / "test_data_owl.jpg").read_bytes(),
        "manifest.csv": manifest.encode(),
    }.items():
        with s3_server.open_output_stream(f"clips/set/{key}") as out:
            out.write(data)
    yield "s3://clips/set"
    ray.shutdown()


@pytest.mark.slow
def test_an_s3_round_trip_and_a_second_run_that_downloads_nothing(bucket, tmp_path):
    config = {"input": f"{bucket}/manifest.csv", "store": tmp_path / "store"}
    summary = curate(CurateConfig(output=tmp_path / "a", **config))
    assert (summary.inputs, summary.kept, summary.errors, summary.files_read) == (3, 2, 1, 2)
    assert summary.reasons == {"outside_root": 1}
    again = curate(CurateConfig(output=tmp_path / "b", **config))
    assert (again.kept, again.files_read) == (2, 0)


def test_prefixes_are_listed_and_missing_objects_are_named(bucket):
    rows = read_source(bucket, SourceConfig(), need_license=False).to_pylist()
    assert [r["uri"] for r in rows] == [f"{bucket}/milk.mkv", f"{bucket}/sub/owl.jpg"]
    with pytest.raises(ValueError, match="--input"):
        read_source("s3://clips/nothing", SourceConfig())
    with pytest.raises(MediaError) as error, local_copy(f"{bucket}/no.mp4"):
        pass
    assert error.value.reason == "file_missing"
    assert stamp(f"{bucket}/no.mp4") == ""
    with pytest.raises(MediaError) as error, local_copy(f"{bucket}/milk.mkv", max_gb=1e-6):
        pass
    assert error.value.reason == "too_large"


def test_pipes_folders_and_unreadable_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, reason in ((tmp_path / "pipe.mp4", "not_a_file"), (tmp_path, "not_a_file"), ("/dev/zero", "not_a_file")):
        with pytest.raises(MediaError) as error, local_copy(str(path)):
            pass
        assert error.value.reason == reason


def test_a_copy_that_a_killed_process_left_is_removed_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    left = tmp_path / "temp" / f"{PREFIX}left.mp4"
    left.parent.mkdir()
    left.write_text("half a clip")
    os.utime(left, (0, 0))
    (tmp_path / "x.tar").write_bytes(b"x" * 2048)
    with local_copy(f"{tmp_path}/x.tar#512+1000.mp4") as copy:
        assert [str(p) for p in left.parent.iterdir()] == [copy]
    assert list(left.parent.iterdir()) == []


def test_content_names_a_clip_wherever_it_is(clips, tmp_path):
    path = clips / "photos" / "test_data_owl.jpg"
    (tmp_path / "other name.bin").write_bytes(path.read_bytes())
    assert content_hash(str(path)) == content_hash(str(tmp_path / "other name.bin"))
    assert stamp(str(path)) != stamp(str(tmp_path / "other name.bin"))


def refusal(uri, **options):
    with pytest.raises(MediaError) as error, local_copy(str(uri), **options):
        pass
    return error.value.reason


def test_one_size_limit_for_files_wherever_they_are(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"x" * 2048)
    limit = 1000 / 2**30
    assert refusal(path, max_gb=limit) == "too_large"
    assert refusal(f"{path}#0+1500.mp4", max_gb=limit) == "too_large"
    with local_copy(f"{path}#1024+1000.mp4", max_gb=limit) as copy:
        assert os.path.getsize(copy) == 1000
    os.truncate(path, 2 << 40)  # holes: hashing them would take hours
    assert refusal(path) == "too_large"


@pytest.mark.parametrize(
    "uri", ["s3://b/x?endpoint_override=HOST&scheme=http", "s3://b/x.tar?endpoint_override=HOST#0+9.mp4"]
)
def test_uris_from_data_name_a_place_and_nothing_else(uri, stranger):
    uri = uri.replace("HOST", stranger.address)
    assert refusal(uri) == "unsafe_uri"
    assert stamp(uri) == ""
    assert stranger.requests == []


def test_members_and_schemes_are_told_by_exact_forms():
    assert file_of("s3://b/x.tar#0+9.mp4") == "s3://b/x.tar"
    assert file_of("/a/x.tar#512+77") == "/a/x.tar"
    for uri in ("x.tar#-5+9.mp4", "x.tar#0+9", "x.tar#0+99999999999999999999.mp4", "x.zip#0+9", "x.tar#٣+9"):
        assert file_of(uri) == (uri if uri != "x.tar#0+9" else "x.tar")
    assert all(map(is_remote, ("s3://b/x", "S3://b/x", "https://[", "a+b.c-1://x")))
    assert not any(map(is_remote, ("/a/b://c", "file:///x", "FILE:///x", "a/b", "://x", "1s://x")))
    assert local_path("file:///a/b") == local_path("/a/b") == "/a/b"
