from pathlib import Path

import pytest

from data_prep.curate.balance import BalanceConfig
from data_prep.curate.config import CurateConfig
from data_prep.curate.license import LicenseConfig
from data_prep.curate.quality import QualityConfig
from data_prep.curate.thresholds import FilterConfig
from data_prep.measure.run import DecodeConfig
from lingen.io.manifest import digest, file_digest


def config(**changes):
    return CurateConfig(input="x", output=Path("out/y"), **changes)


def test_where_and_how_does_not_count_as_content_but_thresholds_do():
    same = config(store=Path("s"), decode=DecodeConfig(workers=3), refilter=True, overwrite=True, estimate=5)
    assert digest(same.content()) == digest(config().content())
    assert digest(config(filter=FilterConfig(min_side=1)).content()) != digest(config().content())


def test_files_count_by_their_content(tmp_path):
    listed, edited = tmp_path / "gone.csv", tmp_path / "quality.csv"
    listed.write_text("uri\na.mp4\n")
    edited.write_text("keep,clip_id\nno,c0\n")
    made = config(takedown=listed, quality=QualityConfig(count=1, decisions=edited))
    assert made.content()["takedown"] == file_digest(listed)
    assert made.content()["quality"][1] == file_digest(edited)
    assert list(made.stage_hashes()) == ["source", "license", "takedown", "read", "duplicate", "spans"]
    assert made.stage_hashes()["takedown"] == file_digest(listed)
    assert "takedown" not in config().stage_hashes()


def test_the_store_is_beside_the_output():
    assert config().store_folder == Path("out/y.store")
    assert config(store=Path("s")).store_folder == Path("s")


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"balance": BalanceConfig(keep=0.5)}, r"--balance\.keep"),
        ({"filter": FilterConfig(min_aesthetic=4.5)}, r"--filter\.min-aesthetic"),
        ({"columns": ("text",)}, r"--columns: 'text' is not OURS=YOURS"),
        ({"takedown": Path("nowhere.csv")}, r"--takedown: nowhere.csv is not a file"),
    ],
)
def test_what_cannot_work_is_refused_at_once(changes, flag):
    with pytest.raises(ValueError, match=flag):
        config(**changes)


def test_flags_that_earlier_versions_did_not_have_change_no_digest_while_they_are_unused():
    assert "columns" not in config().content()
    assert "allow_also" not in config().content()["license"]
    assert config().stage_hashes()["license"] == "dc7321af47147d3a"
    also = config(license=LicenseConfig(allow_also=("CC-BY-SA-4.0",)), columns=("caption=text",))
    assert also.content()["columns"] == ("caption=text",)
    assert also.stage_hashes()["license"] != config().stage_hashes()["license"]
