"""report.html from decisions made by hand; and of a real curation in a real browser: every section is filled and
nothing runs or loads."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from data_prep.curate import report
from data_prep.curate.config import CurateConfig
from data_prep.curate.job import curate
from data_prep.curate.license import LicenseConfig
from data_prep.curate.quality import Proposal
from data_prep.curate.result import CurationResult, summarise
from data_prep.curate.thresholds import FilterConfig, drop_by_thresholds
from data_prep.measure.examine import STILL_SCHEMA
from data_prep.measure.run import Measured
from data_prep.measure.store import Store

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=3000"),
)


@pytest.fixture
def written(make, tmp_path):
    """A function: rows, further parts of the result -> the report's text."""

    def write(*rows, assumed=None, concepts=None, proposals=()):
        made = make(*rows)
        outcomes = drop_by_thresholds(made.found, made.ledger, FilterConfig())
        result = CurationResult(made.found, made.ledger, outcomes, concepts, list(proposals))
        stills = Store(tmp_path, "stills", STILL_SCHEMA)
        summary = summarise(result, len(rows), Measured(None, {}, None, stills), 1.0)
        report.write(tmp_path / "r.html", "<in>", assumed, result, summary, stills)
        return (tmp_path / "r.html").read_text()

    return write


def test_text_from_outside_is_escaped_and_an_assumed_licence_is_loud(written):
    text = written({"caption": "<script>x</script>", "uri": "<b>.mp4"}, assumed="<CC0>")
    assert "Curation of &lt;in&gt;" in text
    assert "The licence &lt;CC0&gt; was ASSUMED" in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "<b>.mp4" not in text
    assert "ASSUMED" not in written({})


def test_reasons_count_first_failures_and_all_failures(written):
    rows = [{"motion": 0.0, "technical": 1.0}, {"motion": 9.0, "technical": 1.0}, {"motion": 9.0, "technical": 9.0}]
    text = written(*rows)
    assert "<td>still</td><td class=n>1</td><td class=n>1</td>" in text
    assert "<td>technical</td><td class=n>1</td><td class=n>2</td>" in text
    assert "min technical 3: 2 of 3 fail" in text


def test_clips_near_a_threshold_are_shown_with_it(written):
    text = written(*({"technical": t} for t in (2.9, 3.2, 9.0)))
    borderline = text[text.index("Borderline") : text.index("<h3>Dropped")]
    assert re.findall(r"technical ([\d.]+), limit 3", borderline) == ["2.9", "3.2"]


def test_concepts_before_and_after_balancing_and_the_quality_set(written):
    text = written({"motion": 9.0}, {"motion": 9.0}, {"motion": 0.0}, concepts=np.array([0, 1, 1]))
    assert "<tr><td>1</td><td class=n>2</td><td class=n>1</td>" in text
    assert "id=concepts" not in written({}, concepts=np.array([-1]))
    text = written({}, {}, proposals=[Proposal(0, 90.0, True), Proposal(1, 80.0, False)])
    assert "as in quality.csv (1 shown)" in text


@pytest.fixture(scope="module")
def real_report(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "in").mkdir()
    for name in (
        "videos/sample-videos_milk.mkv",
        "videos/media_bear-vp9.webm",
        "odd/media_silent-black-10s.mp4",
        "odd/streamio-ffmpeg_broken.mp4",
    ):
        shutil.copy(clips / name, folder / "in")
    shutil.copy(clips / "photos" / "test_data_owl.jpg", folder / "in")
    (folder / "in" / "test_data_owl.txt").write_text("<b>An owl</b><script>document.title='owned'</script>")
    (folder / "in" / "media_bear-vp9.txt").write_text("A bear behind a fence.")
    for name in ("media_silent-black-10s", "streamio-ffmpeg_broken"):
        (folder / "in" / f"{name}.txt").write_text("Words.")
    config = CurateConfig(input=str(folder / "in"), output=folder / "out", license=LicenseConfig(assume="CC0-1.0"))
    summary = curate(config)
    assert (summary.kept, summary.dropped, summary.errors) == (2, 2, 1)
    return folder / "out" / "report.html"


@pytest.mark.slow
def test_every_section_is_filled_in_a_browser(chromium, real_report, tmp_path):
    command = [chromium, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", real_report.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "<title>Curation report</title>" in dom
    assert "was ASSUMED" in dom
    assert re.search(r"<b>brightness \d[\d.]*, limit 8</b>|<b>black 1, limit 0.3</b>", dom)
    for section in ("reasons", "licenses", "scores", "lengths", "sheets", "errors"):
        body = re.search(rf'<h2 id="{section}">.*?(?=<h2|</body>)', dom, re.S)
        assert body, section
        assert re.search(r"<(td|svg|img)", body[0]), section
    assert dom.count("<img") >= 4
    assert dom.count("<rect") > 40
    assert "<script" not in dom
    assert "&lt;b&gt;An owl&lt;/b&gt;" in dom


@pytest.mark.slow
def test_it_is_drawn(chromium, real_report, tmp_path):
    """A screenshot that is neither blank nor one colour, in a narrow window too."""
    from PIL import Image

    for width in (1200, 420):
        shot = tmp_path / f"{width}.png"
        subprocess.run(
            [
                *(chromium, *FLAGS, f"--user-data-dir={tmp_path / str(width)}"),
                *(f"--window-size={width},1600", f"--screenshot={shot}", real_report.as_uri()),
            ],
            capture_output=True,
            timeout=120,
        )
        assert len(set(Image.open(shot).convert("L").resize((64, 64)).getdata())) > 8


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(real_report):
    text = real_report.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(http|//|file)""", text)
    assert "default-src 'none'" in text
