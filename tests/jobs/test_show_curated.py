"""jobs/show.py on what curation writes, and on files that it cannot show."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.curate.config import CurateConfig
from data_prep.curate.job import curate
from data_prep.curate.license import LicenseConfig
from jobs.show import ShowConfig, run
from lingen.io.manifest import OutputFolder


@pytest.fixture(scope="module")
def curated(clips, tmp_path_factory):
    """A curation that reads no media: clips without captions, and one without a licence that counts."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "in").mkdir()
    for name in ("sam2_01_dog.mp4", "sam2_02_cups.mp4", "sample-videos_milk.mkv"):
        shutil.copy(clips / "videos" / name, folder / "in")
    (folder / "in" / "sam2_02_cups.json").write_text(json.dumps({"license": "CC BY 4.0", "caption": "Cups."}))
    curate(CurateConfig(input=str(folder / "in"), output=folder / "out", license=LicenseConfig(assume="CC0-1.0")))
    return folder / "out"


def shown(capsys, target, **options):
    run(ShowConfig(target=str(target), **options))
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "ledger.parquet"])
def test_a_curated_folder_and_its_ledger_are_summed_up(curated, capsys, name):
    out = shown(capsys, curated / name)
    assert "0 kept, 3 dropped, 0 errors" in out
    assert "2 caption_missing: there is no caption; for example sam2_01_dog.mp4" in out
    assert "--why FILE" in out


def test_why_tells_the_story_of_a_file(curated, capsys):
    for target in (curated, curated / "ledger.parquet"):
        out = shown(capsys, target, why="sam2_02_cups.mp4")
        assert "dropped at license, license_unknown: 'CC BY 4.0' is no SPDX id; did you mean CC-BY-4.0?" in out
    with pytest.raises(ValueError, match=r"--why: .* did you mean sam2_01_dog\.mp4\?"):
        shown(capsys, curated, why="dog")
    with pytest.raises(ValueError, match=r"--why: .* is no finished curation"):
        shown(capsys, curated.parent, why="sam2_01_dog.mp4")


def test_other_tables_and_texts_are_shown_row_by_row(curated, capsys, tmp_path):
    out = shown(capsys, curated / "scores.parquet", limit=1)
    assert "3 rows; columns: clip_id, uri" in out
    assert "sam2_01_dog.mp4" in out
    assert "... and 2 more (--limit)" in out
    assert '"kept": 0' in shown(capsys, curated / "summary.json")
    pq.write_table(pa.table({"text": ["\x1b[2J" + "x" * 9999]}), tmp_path / "a.parquet")
    assert "\x1b" not in (out := shown(capsys, tmp_path / "a.parquet"))
    assert len(out) < 500
    (tmp_path / "long.json").write_text("[\n" + "1,\n" * 9999)
    assert shown(capsys, tmp_path / "long.json").endswith("...\n")


def test_folders_of_other_jobs_say_who_made_them(capsys, tmp_path):
    folder = OutputFolder.open(tmp_path / "run", "train", {}, {})
    assert "begun by jobs/train.py, not finished" in shown(capsys, tmp_path / "run")
    folder.publish({})
    assert "made by jobs/train.py, finished at 20" in shown(capsys, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.mp4", r"is a clip; what became of it: .* --why a\.mp4"),
        ("report.html", "is for a browser"),
        ("weights.bin", "is not ours to show; give a folder of our jobs"),
        ("broken.parquet", "is not readable as Parquet"),
        ("ledger.parquet", "is not readable as the ledger of a curation"),
    ],
)
def test_what_cannot_be_shown_says_what_to_give(capsys, tmp_path, name, message):
    (tmp_path / name).write_text("text")
    with pytest.raises(ValueError, match=message):
        shown(capsys, tmp_path / name)


def test_a_store_and_decoding_what_holds_no_samples_are_refused(curated, capsys, tmp_path):
    for name in ("signals", "files"):
        (tmp_path / "x.store" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"keeps measurements for jobs/curate\.py"):
        shown(capsys, tmp_path / "x.store")
    with pytest.raises(ValueError, match=r"--decode: .* holds no samples"):
        shown(capsys, curated / "ledger.parquet", decode=tmp_path / "look")
