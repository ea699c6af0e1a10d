import csv
import itertools

import numpy as np
import pytest

from data_prep.curate.license import LicenseConfig, decide
from data_prep.demo import footage
from data_prep.demo.footage import FIXED, MOVES, PHOTOS, Cutout, make_demo_clips
from data_prep.demo.scenes import SIDE
from data_prep.media.errors import MediaError
from data_prep.media.probe import probe

GOOD = 3
SCENES = 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The manifest's rows, with absolute names."""
    manifest = make_demo_clips(tmp_path_factory.mktemp("demo"), videos=GOOD, scenes=SCENES, stills=SCENES)
    with open(manifest, newline="") as f:
        return [row | {"path": manifest.parent / row["uri"]} for row in csv.DictReader(f)]


def test_good_clips_are_what_the_manifest_states(rows):
    good = [row for row in rows if not row["uri"].startswith(("bad/", "scenes/"))]
    assert len(good) == GOOD + len(PHOTOS)
    for row in good:
        known = probe(row["path"])
        assert known.media_type == row["media_type"]
        assert known.media_type == "image" or known.duration_s > 4  # the longest stage takes 4 s
        assert row["attribution"]
        assert decide(row["license"], LicenseConfig()).verdict == "keep"
        assert row["caption"].endswith(".")


def test_scenes_are_videos_and_pictures_with_captions(rows):
    scenes = [row for row in rows if row["uri"].startswith("scenes/")]
    assert [row["media_type"] for row in scenes] == ["video"] * SCENES + ["image"] * SCENES
    for row in scenes:
        known = probe(row["path"])
        assert (known.media_type, min(known.width, known.height)) == (row["media_type"], SIDE)
        assert row["caption"].startswith("a ")
        assert decide(row["license"], LicenseConfig()).verdict == "keep"


def test_bad_clips_are_bad_in_the_way_of_their_names(rows):
    bad = {row["path"].stem: row for row in rows if row["uri"].startswith("bad/")}
    for name, reason in (("truncated", "truncated"), ("noise", "unknown_format"), ("missing", "file_missing")):
        with pytest.raises(MediaError) as error:
            probe(bad[name]["path"])
        assert error.value.reason == reason
    for name in ("unlicensed", "noncommercial"):
        assert decide(bad[name]["license"], LicenseConfig()).verdict == "drop"


def test_finished_footage_is_not_made_again(tmp_path):
    (tmp_path / "manifest.csv").write_text("kept")
    assert make_demo_clips(tmp_path).read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_fixed_camera_shows_one_picture_and_a_pan_does_not():
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    fixed = footage._film(photo, FIXED, 48, 80, 5)
    assert fixed.shape == (5, 48, 80, 3)
    assert (fixed == fixed[0]).all()
    pan = footage._film(photo, MOVES[0], 48, 80, 5)
    assert all((a != b).any() for a, b in itertools.pairwise(pan))


def test_a_cut_out_moves_on_its_path_and_is_clipped_at_the_edges():
    photo = np.zeros((60, 90, 3), np.uint8)
    disc = Cutout(np.full((20, 20, 3), 255, np.uint8), np.ones((20, 20, 1)), (0.0, 0.5, 1.0, 0.5))
    frames = footage._film(photo, FIXED, 48, 80, 3, disc)
    assert [np.flatnonzero(frame[24, :, 0]).tolist() for frame in frames] == [
        list(range(10)),
        list(range(30, 50)),
        list(range(70, 80)),
    ]
