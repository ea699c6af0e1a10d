import csv
import json
import os
import random
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep.sources.manifest import SourceConfig, digest_source, read_source
from data_prep.sources.rows import COLUMNS, MAX_CAPTION, MAX_TEXT

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
    before = digest_source(str(tmp_path), SourceConfig())
    assert digest_source(str(tmp_path), SourceConfig()) == before
    (tmp_path / "b.mp4").write_bytes(b"2")
    assert digest_source(str(tmp_path), SourceConfig()) != before


def test_what_cannot_be_opened_is_named(tmp_path):
    os.mkfifo(tmp_path / "m.csv")
    (tmp_path / "m.jsonl").symlink_to("/dev/zero")
    (tmp_path / "m.parquet").symlink_to("/proc/self/maps")
    for name in ("m.csv", "m.jsonl", "m.parquet"):
        with pytest.raises(ValueError, match=r"--input: .* cannot be read: not_a_file"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match=r"--input: .* does not exist"):
        read(tmp_path / ("x" * 300 + ".csv"))
    with pytest.raises(ValueError, match=r"it has: a\\x1b"):
        read(manifest(tmp_path, "a\x1b[2J,b\n1,2\n", "n.csv"))


def test_secrets_in_any_column_are_hidden(tmp_path):
    text = "s3://K:SECRET@b and https://h/x?X-Amz-Signature=SECRET"
    path = manifest(tmp_path, "uri,caption,license,source,attribution\na.mp4" + f",{text}" * 4 + "\n")
    (row,) = read(path)
    assert row["bad"] == ""
    assert [row[name] for name in COLUMNS[2:]] == ["s3://***@b and https://h/x?X-Amz-Signature=***"] * 4


VALUE = st.one_of(
    st.text(st.characters(), max_size=40),
    st.sampled_from(
        [
            *(
                "clip.mp4",
                "../x.mp4",
                "/proc/kmsg",
                "s3://b/x.mp4",
                "s3://b/x?endpoint_override=h",
                "gs://u@b/x",
                "#",
                "?",
                "~",
            ),
            *(
                "s3://K:SECRET@b/x.mp4",
                "https://h/?sig=SECRET",
                "x.tar#0+9.mp4",
                "s3://[::1",
                "a://b::c",
                "file://",
                "://",
                "//h/x",
            ),
            *("http://\u2100.example/", "x" * 5000, "\x1b]0;x\x07", "\u202egpm.exe", "link.tar#0+1.mp4", "link/x.mp4"),
        ]
    ),
)
PIECES = st.lists(VALUE, min_size=1, max_size=3).map("".join)
ANY = st.one_of(PIECES, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(st.integers(), max_size=2))
NAMES = st.sampled_from(["uri", "uri", "caption", "license", "source", "attribution", "media_type", "bad", "row", ""])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(NAMES, ANY, max_size=6), max_size=5), st.sampled_from(["csv", "jsonl", "parquet"]))
@example([{"uri": "s3://K:SECRET@b/x.mp4", "bad": "yes"}], "csv")
@example([{"uri": "s3://[::1"}], "jsonl")
def test_whatever_a_manifest_holds_becomes_rows(tmp_path, entries, kind):
    path, inside = tmp_path / "in" / f"m.{kind}", tmp_path / "in"
    if not inside.is_dir():
        (inside / "sub").mkdir(parents=True)
        (inside / "link").symlink_to(tmp_path)
        (inside / "link.tar").symlink_to("/etc/passwd")
    entries = [{"uri": "clip.mp4"}, *entries]
    if kind == "jsonl":
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    elif kind == "csv":
        with open(path, "w", encoding="utf-8", errors="replace", newline="") as f:
            writer = csv.DictWriter(f, list(dict.fromkeys(name for entry in entries for name in entry)))
            writer.writeheader()
            writer.writerows(entries)
    else:
        names = dict.fromkeys(name for entry in entries for name in entry)
        texts = [
            [None if (v := e.get(n)) is None else str(v).encode("utf-8", "replace") for e in entries] for n in names
        ]
        pq.write_table(pa.table([pa.array(t, pa.binary()).cast(pa.string()) for t in texts], list(names)), path)
    table = read_source(str(path), SourceConfig(), need_license=False)
    table.validate(full=True)
    rows = table.to_pylist()
    if kind != "csv":  # there, a lone quote or line end may join or split rows
        assert len(rows) == len(entries)
    assert [row["row"] for row in rows] == list(range(len(rows)))
    for row in rows:
        assert not re.search(r"://\S*(:|sig=)SECRET", f"{row['uri']} {row['bad']}")
        assert len(row["caption"]) <= MAX_CAPTION
        assert all(len(row[name]) <= MAX_TEXT for name in ("uri", "license", "source", "attribution"))
        assert all("\x1b" not in value and "\0" not in value for value in row.values() if isinstance(value, str))
        if row["bad"]:
            reasons = ("bad_row", "outside_root", "scheme_not_allowed", "unsafe_uri")
            assert row["bad"].partition(":")[0] in reasons
        else:
            assert re.fullmatch(r"/.*|(s3|gs|abfs)://[^/?#@]+/[^?#]*(\.tar#\d+\+\d+(\.\w+)?)?", row["uri"], re.DOTALL)
