"""report.html opened in a real browser, from a real curation: every section is filled and nothing runs or loads."""

import re
import shutil
import subprocess

import pytest

from data_prep.curate.job import CurateConfig, curate
from data_prep.curate.license import LicenseConfig

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=3000"),
)


@pytest.fixture(scope="module")
def report(clips, tmp_path_factory):
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
    config = CurateConfig(input=str(folder / "in"), output=folder / "out", license=LicenseConfig(assume="CC0-1.0"))
    summary = curate(config)
    assert (summary.kept, summary.dropped, summary.errors) == (2, 2, 1)
    return folder / "out" / "report.html"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_every_section_is_filled_in_a_browser(report, tmp_path):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", report.as_uri()]
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


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_it_looks_like_something(report, tmp_path):
    """A screenshot that is neither blank nor one colour, in a narrow window too."""
    from PIL import Image

    for width in (1200, 420):
        shot = tmp_path / f"{width}.png"
        subprocess.run(
            [
                *(CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / str(width)}"),
                *(f"--window-size={width},1600", f"--screenshot={shot}", report.as_uri()),
            ],
            capture_output=True,
            timeout=120,
        )
        assert len(set(Image.open(shot).convert("L").resize((64, 64)).getdata())) > 8


def test_nothing_is_loaded_from_elsewhere(report):
    text = report.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(http|//|file)""", text)
    assert "default-src 'none'" in text
