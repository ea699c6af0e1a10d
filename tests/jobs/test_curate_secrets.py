"""The whole job on a manifest with secrets and strangers in it, named by a URI with a password."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
PASSWORD = "wJalrXUtnFEMIbPxRfiCYEXAMPLEKEY"


@pytest.mark.slow
def test_a_password_is_nowhere_and_a_stranger_is_asked_nothing(clips, s3_server, stranger, tmp_path, monkeypatch):
    monkeypatch.undo()  # the stranger listens, but the environment names the real server
    lines = [
        "uri,license,caption,source,bad",
        "milk.mkv,CC-BY-4.0,A sign.,https://me:PASSWORD@h/x?X-Amz-Signature=PASSWORD,yes",
        "milk.mkv?endpoint_override=HOST&scheme=http,MIT,x,x,",
        "s3://clips/milk.mkv?endpoint_override=HOST&scheme=http,MIT,x,x,",
        "s3://AKIAEXAMPLE:PASSWORD@clips/milk.mkv,MIT,x,x,",
        "https://HOST/x.mp4?token=PASSWORD,MIT,x,x,",
    ]
    manifest = "\n".join(lines).replace("PASSWORD", PASSWORD).replace("HOST", stranger.address)
    for key, data in {
        "milk.mkv": (clips / "videos" / "sample-videos_milk.mkv").read_bytes(),
        "m.csv": manifest.encode(),
    }.items():
        with s3_server.open_output_stream(f"clips/set/{key}") as out:
            out.write(data)
    job = [sys.executable, str(ROOT / "jobs/curate.py"), "--input", f"s3://AKIAEXAMPLE:{PASSWORD}@clips/set/m.csv"]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    ended = subprocess.run(
        [*job, "--output", str(tmp_path / "out")], capture_output=True, text=True, env=environment, timeout=500
    )
    assert ended.returncode == 0, ended.stderr
    rows = pq.read_table(tmp_path / "out" / "ledger.parquet").to_pylist()
    final = {row["row"]: (row["verdict"], row["reason"]) for row in rows if row["stage"] == "final"}
    assert final.pop(0) == ("keep", "")
    assert set(final.values()) == {("error", "unsafe_uri"), ("error", "scheme_not_allowed")}
    assert stranger.requests == []
    (kept,) = pq.read_table(tmp_path / "out" / "clips.parquet").to_pylist()
    assert (kept["uri"], kept["source"]) == ("s3://clips/set/milk.mkv", "https://***@h/x?X-Amz-Signature=***")
    assert PASSWORD not in ended.stdout + ended.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.json", "manifest.json", "mlflow.db", "report.html"} <= {path.name for path in files}
    for path in files:
        assert PASSWORD.encode() not in path.read_bytes(), path
        if path.suffix == ".parquet":
            assert PASSWORD not in str(pq.read_table(path).to_pylist()), path
