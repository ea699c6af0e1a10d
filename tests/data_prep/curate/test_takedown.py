"""The list of what must go, and a curation that honours it."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.curate.config import CurateConfig
from data_prep.curate.job import curate
from data_prep.curate.ledger import check
from data_prep.curate.license import LicenseConfig
from data_prep.curate.takedown import Takedown, content_of
from data_prep.sources.manifest import SCHEMA


def listed(path, text):
    path.write_text(text)
    return Takedown.read(path)


def test_a_row_names_what_agrees_with_all_its_cells(tmp_path):
    found = listed(
        tmp_path / "t.csv",
        "uri,source,license,content,detail\nvideos/a.mp4,,,,asked by the owner\n,Site,CC-BY-4.0,,\n,,,abc-0-17000,\n",
    )
    assert found.detail({"uri": "/data/videos/a.mp4"}) == "asked by the owner"
    assert found.detail({"uri": "s3://b/videos/a.mp4", "source": "x"}) == "asked by the owner"
    assert found.detail({"uri": "/data/other/a.mp4"}) is None
    assert found.detail({"uri": "/data/myvideos/a.mp4"}) is None
    assert found.detail({"source": "Site", "license": "CC-BY-4.0"}) == "source Site"
    assert found.detail({"source": "Site", "license": "CC0-1.0"}) is None
    assert found.detail({"content": "abc"}) == found.detail({"content": "abc-5-9"}) == "content abc-0-17000"
    assert found.detail({"content": "abcd"}) is None
    assert found.detail({}) is None
    assert content_of("abc-0-17000_w0002") == "abc"


@pytest.mark.parametrize("text", ["", "uri\n", "name\nx\n", "uri,detail\n,why\n"])
def test_a_list_that_names_nothing_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"--takedown: .*names nothing"):
        listed(tmp_path / "t.csv", text)


def test_the_sources_rows_that_a_list_names(tmp_path):
    found = listed(tmp_path / "t.csv", "uri,source\na.mp4,\n,Site\n")
    rows = [("x/a.mp4", ""), ("x/b.mp4", ""), ("x/c.mp4", "Site"), ("x/a.mp4", "")]
    columns = {"row": range(4), **dict(zip(("uri", "source"), zip(*rows)))}
    source = pa.table({n: columns.get(n, [""] * 4) for n in SCHEMA.names}, schema=SCHEMA)
    assert sorted(found.uris(source).to_pylist()) == ["x/a.mp4", "x/c.mp4"]


@pytest.mark.slow
def test_what_is_taken_down_is_recorded_not_read_and_gone_from_the_store(clips, tmp_path):
    media = tmp_path / "in"
    media.mkdir()
    for name, of in (("a", "coins.png"), ("b", "astronaut.png"), ("copy", "coins.png")):
        shutil.copy(clips / "photos" / f"scikit-image_{of}", media / f"{name}.png")
        (media / f"{name}.txt").write_text(f"Photograph {name}.")
    common = {"input": str(media), "license": LicenseConfig(assume="CC0-1.0"), "store": tmp_path / "store"}
    assert curate(CurateConfig(**common, output=tmp_path / "before")).kept == 2
    (media / "new.png").write_bytes(b"never read")
    (tmp_path / "t.csv").write_text("uri,detail\ncopy.png,the owner wrote on 3 May\nnew.png,\n")
    config = CurateConfig(**common, output=tmp_path / "after", takedown=tmp_path / "t.csv", refilter=True)
    summary = curate(config)
    assert (summary.kept, summary.reasons, summary.files_read) == (1, {"taken_down": 3}, 0)
    table = pq.read_table(tmp_path / "after" / "ledger.parquet")
    check(table)
    rows = [r for r in table.to_pylist() if r["stage"] == "takedown" and r["verdict"] == "drop"]
    assert {r["row"]: r["detail"] for r in rows} == {
        0: "the owner wrote on 3 May",
        2: "the owner wrote on 3 May",
        3: "uri new.png",
    }
    (kept,) = pq.read_table(tmp_path / "after" / "clips.parquet").to_pylist()
    stored = pa.concat_tables(pq.read_table(p) for p in (tmp_path / "store").glob("stills-*/*.parquet"))
    assert stored["key"].to_pylist() == [kept["content_hash"]]
    assert np.isfinite(kept["technical"])
