"""Manifests that nobody vouches for: CSV, JSON lines and Parquet with values and bytes of any kind."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.mutate import mutated

VALUES = (
    *(
        "",
        " ",
        "clip.mp4",
        "../clip.mp4",
        "/etc/passwd",
        "/proc/kmsg",
        "/dev/zero",
        "a\x00b.mp4",
        "\x1b[31mred",
        "ü.mp4",
    ),
    *(
        "s3://bucket/x.mp4?endpoint_override=127.0.0.1:1&scheme=http",
        "gs://user@bucket/x.mp4",
        "s3://KEY:SECRET@b/x.mp4",
        "s3://[::1",
        "abfs://container@127.0.0.1:1/x.mp4",
        "https://127.0.0.1:1/x.mp4?X-Amz-Signature=SECRET",
        "simplecache::http://127.0.0.1:1/x.mp4",
    ),
    *(
        "file:///etc/passwd",
        "http://127.0.0.1:1/x.mp4",
        "x.tar#0+10.mp4",
        "x.tar#-5+99999999999999999999.mp4",
        "#",
        "?",
    ),
    *("CC-BY-4.0", "CC BY 4.0", "(((", "MIT OR", "LicenseRef-x", "a" * 70_000, "=cmd()", "\ud800", "NaN", "🎬" * 99),
)
COLUMNS = ("uri", "caption", "license", "source", "attribution", "media_type", "bad", "row", "", "uri ", "URI")


def manifest(folder: Path, seed: int) -> tuple[Path, str]:
    """Write a random manifest into a folder; its path and what kind it is."""
    generator = random.Random(seed)
    columns = generator.sample(COLUMNS, generator.randrange(1, len(COLUMNS)))
    if generator.random() < 0.8 and "uri" not in columns:
        columns.append("uri")
    rows = [{c: generator.choice(VALUES) for c in columns} for _ in range(generator.randrange(8))]
    kind = generator.choice(("csv", "jsonl", "parquet"))
    path = folder / f"manifest.{kind}"
    if kind == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode("utf-8", "surrogatepass")
    elif kind == "jsonl":
        odd = [[], 3, None, {"uri": 7}, {"uri": ["x"]}, {"uri": "clip.mp4", "caption": {"a": 1}}]
        lines = [generator.choice(odd) if generator.random() < 0.2 else row for row in rows]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    else:
        plain = [{c: v.encode("utf-8", "replace").decode() for c, v in row.items()} for row in rows]
        arrays = [pa.array([row[c] for row in plain], pa.string()) for c in columns]
        sink = io.BytesIO()
        pq.write_table(pa.table(arrays, names=columns), sink)
        data = sink.getvalue()
    if generator.random() < 0.4:
        data, how = mutated(data, seed) if data else (data, "")
        kind += f" {how}"
    path.write_bytes(data)
    return path, kind
