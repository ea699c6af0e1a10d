"""The whole flow from a store that is filled already: no media is read, and Ray does not start."""

import shutil

import pyarrow.parquet as pq
import pytest

from data_prep.curate.config import CurateConfig
from data_prep.curate.job import curate, estimate_run, what_if
from data_prep.curate.ledger import check
from data_prep.curate.license import LicenseConfig
from data_prep.curate.quality import QualityConfig
from data_prep.curate.thresholds import CaptionConfig, FilterConfig
from data_prep.measure.examine import ExamineConfig
from data_prep.measure.run import open_stores
from data_prep.media.fetch import content_hash
from lingen.io.manifest import file_digest, read_json, read_manifest


@pytest.fixture
def config(clips, fill_store, tmp_path):
    """Curation of two photographs and a video whose measurements are stored; changes as arguments."""
    media = tmp_path / "in"
    media.mkdir()
    for name in ("photos/scikit-image_astronaut.png", "photos/scikit-image_coins.png", "videos/learning-area_frog.mp4"):
        file = media / name.rpartition("/")[2]
        shutil.copy(clips / name, file)
        file.with_suffix(".txt").write_text("Words.")
    fill_store(tmp_path / "store", [f for f in sorted(media.iterdir()) if f.suffix != ".txt"])

    def of(output="out", **changes):
        given = {"license": LicenseConfig(assume="CC0-1.0"), "refilter": True, "store": tmp_path / "store"} | changes
        return CurateConfig(input=str(media), output=tmp_path / output, **given)

    return of


def test_curation_writes_every_table_and_a_finished_folder_is_returned_as_it_is(config, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.measure.run.connect", lambda: pytest.fail("Ray is started, with nothing to measure"))
    summary = curate(config(quality=QualityConfig(count=1)))
    assert (summary.inputs, summary.kept, summary.files_read) == (3, 3, 0)
    out = tmp_path / "out"
    counts = check(pq.read_table(out / "ledger.parquet"))
    assert counts["kept"] == pq.read_metadata(out / "clips.parquet").num_rows == 3
    manifest = read_manifest(out)
    names = {p.name for p in out.iterdir()} - {"manifest.json", "config.json"}
    assert {n: file_digest(out / n) for n in names} == {n: d for n, d in manifest["outputs"].items() if "." in n}
    assert names >= {"clips.parquet", "scores.parquet", "report.html", "summary.json", "quality.csv", "quality.parquet"}
    assert summary == curate(config(quality=QualityConfig(count=1)))
    assert read_json(out / "summary.json")["kept"] == 3


def test_what_if_agrees_with_curation_and_writes_nothing(config, tmp_path):
    limits = FilterConfig(min_side=320)
    (choice,) = [c for c in what_if(config(filter=limits)) if c.rule == "min_side" and c.configured]
    assert not (tmp_path / "out").exists()
    assert choice.clips == curate(config(filter=limits)).kept


def test_media_that_nobody_has_measured_is_refused_without_reading(config, tmp_path):
    shutil.copy(tmp_path / "in" / "scikit-image_coins.png", tmp_path / "in" / "new.png")
    (tmp_path / "in" / "new.png").open("ab").write(b"other bytes")
    (tmp_path / "in" / "new.txt").write_text("Words.")
    for job in (curate, what_if):
        with pytest.raises(ValueError, match="--refilter: 1 clips have not been measured"):
            job(config())


def test_an_estimate_measures_only_what_passes_the_gate(config):
    found = estimate_run(config(estimate=1))
    assert (found.sampled, found.total_files) == (1, 3)
    with pytest.raises(ValueError, match=r"--estimate: no clip of .* passes the licence gate"):
        estimate_run(config(estimate=1, license=LicenseConfig()))


def test_captions_are_missed_before_anything_is_read(config, tmp_path, monkeypatch):
    shutil.copy(tmp_path / "in" / "scikit-image_coins.png", tmp_path / "in" / "new.png")
    (tmp_path / "in" / "new.png").open("ab").write(b"other bytes")
    (tmp_path / "in" / "learning-area_frog.txt").unlink()
    summary = curate(config())  # of new.png, which nobody has measured, nothing is read
    assert (summary.kept, summary.reasons) == (2, {"caption_missing": 2})
    rows = [r for r in pq.read_table(tmp_path / "out" / "ledger.parquet").to_pylist() if r["uri"].endswith("frog.mp4")]
    assert [(r["stage"], r["verdict"]) for r in rows] == [
        ("source", "keep"),
        ("license", "keep"),
        ("caption", "drop"),
        ("final", "drop"),
    ]
    with pytest.raises(ValueError, match="--refilter: 1 clips have not been measured"):
        curate(config("other", caption=CaptionConfig(missing="keep")))


def test_captioned_clips_pass_that_stage_after_the_thresholds_as_ever(config, tmp_path):
    curate(config())
    rows = [r for r in pq.read_table(tmp_path / "out" / "ledger.parquet").to_pylist() if r["uri"].endswith("frog.mp4")]
    assert [r["stage"] for r in rows][-4:] == ["max_text_area", "caption", "near_duplicate", "final"]


def test_a_takedown_reaches_what_is_stored_of_clips_without_a_caption(config, tmp_path):
    key = content_hash(str(tmp_path / "in" / "learning-area_frog.mp4"))
    (tmp_path / "in" / "learning-area_frog.txt").unlink()
    (tmp_path / "gone.csv").write_text(f"content,detail\n{key},asked to\n")
    stills = open_stores(tmp_path / "store", ExamineConfig()).stills
    assert key in stills.table(["key"])["key"].to_pylist()
    summary = curate(config(takedown=tmp_path / "gone.csv"))
    assert summary.reasons == {"taken_down": 1}
    assert key not in open_stores(tmp_path / "store", ExamineConfig()).stills.table(["key"])["key"].to_pylist()


def test_an_estimate_says_when_no_clip_has_a_caption(config, tmp_path):
    for text in (tmp_path / "in").glob("*.txt"):
        text.unlink()
    with pytest.raises(ValueError, match=r"--estimate: no clip of .* has a caption"):
        estimate_run(config(estimate=1))
