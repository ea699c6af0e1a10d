import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources.manifest import MAX_CAPTION, SourceConfig, clean_text, digest_source, read_source

HEADER = "uri,media_type,caption,license,source,attribution\n"


def read(path, **kwargs):
    return read_source(str(path), SourceConfig(**kwargs)).to_pylist()


def manifest(tmp_path, text, name="m.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_same_rows_from_csv_jsonl_and_parquet(tmp_path):
    row = {"uri": "a/b.mp4", "caption": "Zwei Züge, 雪", "license": "MIT", "source": "s", "attribution": "x, y"}
    names = list(row)
    quoted = ",".join(names) + "\n" + ",".join(f'"{row[n]}"' for n in names) + "\n"
    rows = [
        read(manifest(tmp_path, quoted)),
        read(manifest(tmp_path, json.dumps(row) + "\n", "m.jsonl")),
    ]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    rows.append(read(tmp_path / "m.parquet"))
    assert rows[0] == rows[1] == rows[2]
    assert rows[0][0]["uri"] == str(tmp_path / "a/b.mp4")
    assert rows[0][0]["caption"] == row["caption"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'uri'"),
        ("uri,caption\na.mp4,x\n", "no column 'license'"),
        (HEADER, "has no rows"),
        (b"\xff\xfe\x00garbage\x00\x01\n\x02", "no column 'uri'"),
    ],
)
def test_unusable_manifests_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(manifest(tmp_path, text))


def test_license_column_may_be_absent_when_one_is_assumed(tmp_path):
    path = manifest(tmp_path, "uri\na.mp4\n")
    assert read_source(str(path), SourceConfig(), need_license=False).num_rows == 1


def test_folders_bring_sidecars_and_skip_other_files(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.mp4", "sub/a.PNG", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b.txt").write_text("A caption\n from a file")
    (tmp_path / "sub/a.json").write_text('{"license": "MIT", "uri": "/etc/passwd", "caption": "from json"}')
    rows = {r["uri"].rsplit("/", 1)[-1]: r for r in read(tmp_path)}
    assert sorted(rows) == ["a.PNG", "b.mp4"]
    assert rows["b.mp4"]["caption"] == "A caption from a file"
    assert (rows["a.PNG"]["license"], rows["a.PNG"]["caption"]) == ("MIT", "from json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no media"):
        read(tmp_path / "empty")
    assert len(read(f"{tmp_path}/**/*.mp4")) == 1
    with pytest.raises(ValueError, match="no file matches"):
        read(f"{tmp_path}/*.webm")


@pytest.mark.parametrize(
    "uri",
    ["../../etc/passwd", "a/../../x.mp4", "link/x.mp4"],
)
def test_names_cannot_leave_the_manifests_folder(tmp_path, uri):
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "link").symlink_to("/etc")
    rows = read(manifest(inside, f"uri,license\n{uri},MIT\n"))
    assert rows[0]["bad"].startswith("outside_root")
    assert read(inside / "m.csv", roots=("/",))[0]["bad"] == ""


@pytest.mark.parametrize("uri", ["/data/x.mp4", "file:///data/x.mp4"])
def test_absolute_names_are_allowed_unless_roots_are_given(tmp_path, uri):
    path = manifest(tmp_path, f"uri,license\n{uri},MIT\n")
    assert read(path)[0] | {"bad": ""} == read(path)[0]
    assert read(path)[0]["uri"] == "/data/x.mp4"
    assert read(path, roots=("/elsewhere",))[0]["bad"].startswith("outside_root")
    assert read(path, roots=("/data",))[0]["bad"] == ""


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1/x.mp4", "gopher://x", "s3::http://x/y", "zip://a.mp4::http://x/y.zip"]
)
def test_schemes_that_are_not_allowed_are_refused(tmp_path, uri):
    assert read(manifest(tmp_path, f"uri,license\n{uri},MIT\n"))[0]["bad"].split(":")[0] in (
        "scheme_not_allowed",
        "outside_root",
        "",
    )
    row = read(manifest(tmp_path, f"uri,license\n{uri},MIT\n"))[0]
    assert row["bad"] or row["uri"].startswith(str(tmp_path))  # never an address to fetch


def test_hostile_text_is_made_harmless():
    assert clean_text("a\0b\tc\n\n d\u202egnp.exe") == "a b c d gnp.exe"
    assert len(clean_text("x" * 10_000)) == MAX_CAPTION
    assert clean_text("lone \ud800 surrogate").isprintable()
    assert clean_text(None) == clean_text(float("nan")) == ""
    assert clean_text("=cmd|' /C calc'!A0") == "=cmd|' /C calc'!A0"  # text stays text; CSV output quotes it


def test_a_hundred_thousand_rows_of_garbage_stay_rows(tmp_path):
    rng = random.Random(0)
    lines = [
        bytes(rng.choices(range(256), k=20)).replace(b"\n", b"").replace(b"\r", b"").replace(b'"', b"")
        for _ in range(100_000)
    ]
    path = manifest(tmp_path, b"uri,license\n" + b"\n".join(lines))
    table = read_source(str(path), SourceConfig())
    assert table.num_rows > 90_000
    assert all(u is not None for u in table["uri"].to_pylist())


def test_broken_json_lines_and_huge_fields_cost_one_row(tmp_path):
    text = '{"uri": "a.mp4", "license": "MIT"}\n{broken\n[1]\n{"uri": 7, "license": "MIT"}\n' + "[" * 100_000 + "\n"
    rows = read(manifest(tmp_path, text, "m.jsonl"))
    assert [bool(r["bad"]) for r in rows] == [False, True, True, True, True]
    rows = read(manifest(tmp_path, HEADER + "a.mp4,video," + "x" * 300_000 + ",MIT,,\n"))
    assert len(rows[0]["caption"]) == MAX_CAPTION


def test_digest_changes_with_the_list(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"1")
    before = digest_source(str(tmp_path))
    assert digest_source(str(tmp_path)) == before
    (tmp_path / "b.mp4").write_bytes(b"2")
    assert digest_source(str(tmp_path)) != before
