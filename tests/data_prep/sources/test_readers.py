import csv
import json
import os
import random
import resource
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources import readers
from data_prep.sources.manifest import SourceConfig, read_source
from data_prep.sources.readers import read_csv, read_jsonl, read_parquet
from data_prep.sources.rows import Unusable


def read(path):
    return read_source(str(path), SourceConfig(), need_license=False).to_pylist()


@pytest.mark.parametrize("name", ["bad", "row", "why", "uri "])
def test_a_column_of_any_name_is_only_a_column(name, tmp_path):
    table = {"uri": ["a.mp4", "b.mp4"], name: ["yes", "no"]}
    (tmp_path / "m.csv").write_text(f"uri,{name}\na.mp4,yes\nb.mp4,no\n")
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(dict(zip(table, row))) + "\n" for row in zip(*table.values())))
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    for kind in ("csv", "jsonl", "parquet"):
        rows = read(tmp_path / f"m.{kind}")
        assert [(row["row"], row["uri"], row["bad"]) for row in rows] == [
            (0, str(tmp_path / "a.mp4"), ""),
            (1, str(tmp_path / "b.mp4"), ""),
        ]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_long_line_costs_one_row(end, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_LINE", 1000)
    long = "x" * 5000
    lines = [
        "uri,caption",
        "a.mp4,one",
        f"b.mp4,{long}",
        "c.mp4,three",
        f'd.mp4,"{long}',
        'still d"',
        "e.mp4,five",
        long[:999],
    ]
    (tmp_path / "m.csv").write_bytes(end.join(lines).encode())
    rows, columns = read_csv(tmp_path / "m.csv", "m.csv")
    shown = [row.why if isinstance(row, Unusable) else row["uri"] for row in rows]
    assert columns == ["uri", "caption"]
    assert shown[0::2][:2] == ["a.mp4", "c.mp4"]
    assert shown[1] == "bad_row: the line is longer than 1000 characters"
    assert "e.mp4" in shown
    lines = [json.dumps({"uri": name}) for name in ("a", long, "c")]
    (tmp_path / "m.jsonl").write_bytes(end.join(lines).encode())
    rows, columns = read_jsonl(tmp_path / "m.jsonl", "m.jsonl")
    assert columns == ["uri"]
    assert [isinstance(row, Unusable) for row in rows] == [False, True, False]
    csv.field_size_limit(1 << 24)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_line_of_a_gigabyte_is_an_error_in_little_memory(kind, tmp_path):
    path = tmp_path / f"m.{kind}"
    good = {"csv": b"uri,license\na.mp4,MIT\n", "jsonl": b'{"uri": "a.mp4"}\n'}[kind]
    with open(path, "wb") as f:
        f.write(good + b'{"uri": "')
        f.seek(1 << 30)
        f.write(b'"}\n' + good[-17:])
    code = f"from tests.data_prep.sources.test_readers import report; report({str(path)!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=os.getcwd())
    bad, gigabytes = json.loads(ended.stdout.splitlines()[-1])
    assert [reason.partition(":")[0] for reason in bad][:2] == ["", "bad_row"]
    assert gigabytes < 0.7


def report(path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bad = [row["bad"] for row in read(path)]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([bad, (after - before) / 2**20]))


@pytest.fixture
def parquet(tmp_path):
    path = tmp_path / "m.parquet"
    table = pa.table(
        {"uri": [f"{i}.mp4" for i in range(20_000)], "caption": [f"A caption, {i}" * 5 for i in range(20_000)]}
    )
    pq.write_table(table, path, row_group_size=5000, compression="zstd")
    return path


@pytest.mark.parametrize("place", [0.05, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999])
def test_a_parquet_file_damaged_anywhere_is_an_error(place, parquet):
    data = bytearray(parquet.read_bytes())
    at = int(len(data) * place)
    data[at : at + 64] = random.Random(at).randbytes(64)
    parquet.write_bytes(data)
    try:
        outcome = len(read(parquet))
    except ValueError as error:
        outcome = str(error)
    if isinstance(outcome, str):
        assert outcome.startswith(f"--input: {parquet}")
        assert "\n" not in outcome
    else:
        assert outcome == 20_000  # the damage hit nothing that matters


def test_a_parquet_file_damaged_in_its_middle_is_named(parquet):
    data = bytearray(parquet.read_bytes())
    begin = len(data) // 2
    data[begin : begin + 2000] = b"\xff" * 2000
    parquet.write_bytes(data)
    rows, _ = read_parquet(parquet, "s3://b/m.parquet")  # the footer is whole
    with pytest.raises(ValueError, match=r"--input: s3://b/m.parquet is not readable as Parquet"):
        list(rows)


def test_parquet_columns_of_any_type_are_read(tmp_path):
    path = tmp_path / "m.parquet"
    columns = {
        "uri": pa.array(["a.mp4", None, "ü.mp4"]),
        "caption": pa.array([b"bytes", b"\xff", None]),
        "license": pa.array(["MIT", "MIT", None]).dictionary_encode(),
        "source": pa.array([{"a": 1}, None, {"a": 2}]),
        "attribution": pa.array(["x" * 100, "y", "z"], pa.large_string()),
        "media_type": pa.array([[1], [], None]),
        "bad": pa.array([1, 2, 3]),
    }
    pq.write_table(pa.table(columns), path)
    rows = read(path)
    assert [row["bad"] for row in rows] == ["", "bad_row: no uri", ""]
    assert [row["license"] for row in rows] == ["MIT", "MIT", ""]
    assert (rows[0]["caption"], rows[0]["source"], rows[0]["media_type"]) == ("b'bytes'", "{'a': 1}", "[1]")
    twice = pa.table([pa.array(["a.mp4"]), pa.array(["b.mp4"])], names=["uri", "uri"])
    pq.write_table(twice, path)
    assert len(read(path)) == 1


def test_text_that_is_not_utf8_costs_nothing(tmp_path):
    path = tmp_path / "m.parquet"
    raw = pa.array([b"a.mp4", b"\xff\xfe.mp4"])
    names = pa.StringArray.from_buffers(2, *raw.buffers()[1:])
    pq.write_table(pa.table({"uri": names}), path)
    rows = read(path)
    assert rows[0]["bad"] == ""
    assert rows[1]["uri"].endswith("\ufffd\ufffd.mp4")


def test_a_parquet_file_cannot_fill_the_memory(tmp_path):
    path = tmp_path / "m.parquet"
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["x" * 4_000_000]))
    pq.write_table(pa.table({"uri": shared}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    began = time.monotonic()
    rows, _ = read_parquet(path, "m")  # as plain texts: 800 GB
    assert sum(len(row["uri"]) == 32_000 for row in rows) == 200_000
    assert time.monotonic() - began < 60
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000_000, pa.int32()), pa.array(["x"]))
    pq.write_table(pa.table({"uri": many}), path, compression="zstd")
    with pytest.raises(ValueError, match=r"--input: m claims 5000000 rows in \d+ bytes"):
        read_parquet(path, "m")
