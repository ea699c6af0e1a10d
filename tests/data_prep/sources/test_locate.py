import os
import tarfile

import pytest

from data_prep.media.errors import MediaError
from data_prep.media.fetch import local_copy, stamp
from data_prep.sources.locate import Locator
from data_prep.sources.manifest import SourceConfig, read_source

SCHEMES = SourceConfig().schemes


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://x/y.mp4?endpoint_override=HOST&scheme=http", "s3://x/y.mp4?***"),
        ("S3://x/y.mp4?endpoint_override=HOST&scheme=http", "s3://x/y.mp4?***"),
        ("s3://x/y.mp4#secret", "s3://x/y.mp4#***"),
        ("s3://KEY:SECRET@b/x.mp4", "s3://***@b/x.mp4"),
        ("s3://KEY:SE/CRET@b/x.mp4", "s3://***@b/x.mp4"),
        ("s3://KEY:SECRET@b/x.tar#0+10.mp4", "s3://***@b/x.tar#***"),
        ("s3://x/y.tar?endpoint_override=HOST&scheme=http#0+10.mp4", "s3://x/y.tar?***"),
        ("gs://user@bucket/x.mp4", "gs://***@bucket/x.mp4"),
        ("abfs://c@HOST/x.mp4", "abfs://c@HOST/x.mp4"),
        ("http://HOST/x.mp4?X-Amz-Signature=SECRET", "http://HOST/x.mp4?***"),
        ("ftp://me:SECRET@HOST/x.mp4", "ftp://***@HOST/x.mp4"),
        ("s3://KEY:SECRET" + "x" * 2000 + "@b/x.mp4", "s3://***"),
        ("s3://KEY:SECRET\x1b@b/x.mp4", "s3://***@b/x.mp4"),
        ("s3://[x", "s3://[x"),
    ],
)
def test_uris_that_reach_out_or_hold_secrets_are_refused_and_not_repeated(uri, shown, stranger):
    uri, shown = (text.replace("HOST", stranger.address) for text in (uri, shown))
    located, bad = Locator("/data", (), SCHEMES).locate(uri)
    assert located == shown
    assert bad.partition(":")[0] in ("unsafe_uri", "scheme_not_allowed", "bad_row")
    assert "SECRET" not in located + bad
    # Nothing is asked for such a URI either when it comes from a file of somebody else's.
    assert stamp(uri) == ""
    with pytest.raises(MediaError), local_copy(uri):
        pass
    assert stranger.requests == []


@pytest.mark.parametrize(
    "name", ["x.mp4?endpoint_override=HOST&scheme=http", "x.mp4#y", "a?b/../x.mp4#1", "x.tar?a#0+1"]
)
def test_relative_names_in_a_remote_manifest_are_judged_alike(name):
    located, bad = Locator("s3://bucket/set", (), SCHEMES).locate(name)
    assert bad.startswith("unsafe_uri")
    assert "HOST" not in located
    assert "HOST" not in bad


@pytest.mark.parametrize(
    ("base", "uri", "located"),
    [
        ("s3://bucket/set", "a/b c.mp4", "s3://bucket/set/a/b c.mp4"),
        ("s3://bucket/set", "x.tar#512+77.mp4", "s3://bucket/set/x.tar#512+77.mp4"),
        ("s3://bucket/set", "gs://other/x.mp4", "gs://other/x.mp4"),
        ("/data", "S3://bucket/x.mp4", "s3://bucket/x.mp4"),
        ("/data", "s3://bucket/x.tar#512+77.mp4", "s3://bucket/x.tar#512+77.mp4"),
        ("/data", "abfs://c@a.dfs.core.windows.net/x.mp4", "abfs://c@a.dfs.core.windows.net/x.mp4"),
        ("/data", "a?b#c@d.mp4", "/data/a?b#c@d.mp4"),
        ("/data", "two  spaces.mp4", "/data/two  spaces.mp4"),
        ("/data", "/elsewhere/x.tar#512+77.mp4", "/elsewhere/x.tar#512+77.mp4"),
        ("/data", "FILE:///elsewhere/x.mp4", "/elsewhere/x.mp4"),
    ],
)
def test_plain_names_are_resolved(base, uri, located):
    assert Locator(base, (), SCHEMES).locate(uri) == (located, "")


def write_tar(path):
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "x.mp4")


def test_a_tar_behind_a_link_is_judged_by_where_it_is(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    write_tar(outside / "x.tar")
    (inside / "link.tar").symlink_to(outside / "x.tar")
    (inside / "folder").symlink_to(outside)
    for name in ("link.tar#512+10.mp4", "folder/x.tar#512+10.mp4", "../out/x.tar#512+10.mp4"):
        (inside / "m.csv").write_text(f"uri,license\n{name},MIT\n")
        (row,) = read_source(str(inside / "m.csv"), SourceConfig()).to_pylist()
        assert row["bad"].startswith("outside_root")
        (row,) = read_source(str(inside / "m.csv"), SourceConfig(roots=(str(outside),))).to_pylist()
        assert row["bad"] == ""


def test_a_folders_files_may_not_link_out_of_it(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    for name in ("secret.mp4", "secret.txt", "secret.json"):
        (outside / name).write_text('{"caption": "SECRET"}')
    write_tar(outside / "x.tar")
    (inside / "a.mp4").symlink_to(outside / "secret.mp4")
    for i, kind in enumerate(("txt", "json")):
        (inside / f"b{i}.mp4").write_bytes(b"x")
        (inside / f"b{i}.{kind}").symlink_to(outside / f"secret.{kind}")
    (inside / "c.tar").symlink_to(outside / "x.tar")
    (inside / "good.mp4").write_bytes(b"x")
    (inside / "link.mp4").symlink_to("good.mp4")
    for where in (inside, f"{inside}/*.[mt]*[4r]", f"{inside}/**"):
        table = read_source(str(where), SourceConfig(), need_license=False)
        rows = {os.path.basename(row["uri"]): row["bad"].partition(":")[0] for row in table.to_pylist()}
        expected = dict.fromkeys(("a.mp4", "b0.mp4", "b1.mp4", "c.tar"), "outside_root") | {
            "good.mp4": "",
            "link.mp4": "",
        }
        assert {name: rows[name] for name in expected} == expected
        assert "SECRET" not in str(table.to_pylist())
    allowed = read_source(str(inside), SourceConfig(roots=(str(outside),)), need_license=False).to_pylist()
    assert {row["bad"] for row in allowed} == {""}
    assert len(allowed) == 6
    assert [row["caption"] for row in allowed[1:3]] == ['{"caption": "SECRET"}', "SECRET"]


def test_a_chain_of_links_ends_as_a_refusal(tmp_path):
    for i in range(1500):
        (tmp_path / f"l{i}").symlink_to(tmp_path / f"l{i + 1}")
    _, bad = Locator(tmp_path, (), SCHEMES).locate("l0")
    assert bad == "" or bad.startswith("outside_root")
    assert not Locator(tmp_path / "other", (), SCHEMES).inside(tmp_path / "l0")
