"""Whole examinations, and the parts without a separate module."""

import io
import json
import subprocess
import sys

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from data_prep.measure.examine import SCHEMA, STAGES, ExamineConfig, black_bars, encode_jpeg, examine, perceptual_hash
from data_prep.media.errors import MediaError
from data_prep.media.frames import read_image


def lists(row):
    return {name: len(value) for name, value in row.items() if isinstance(value, list)}


@pytest.mark.parametrize("name", ["videos/sam2_01_dog.mp4", "photos/test_data_owl.jpg"])
def test_a_row_fits_the_schema_and_its_lists_belong_together(clips, name):
    row, jpegs = examine(str(clips / name), ExamineConfig())
    assert {*row, "key", "attempts"} == set(SCHEMA.names)
    assert pa.Table.from_pylist([row], schema=SCHEMA).num_rows == 1
    assert sum(row[f"{stage}_s"] for stage in STAGES) == pytest.approx(row["seconds"])
    count = lists(row)
    assert len(jpegs) == count["still_s"] == count["phash"] == count["technical"] == count["text_area"] >= 1
    assert count["sample_s"] == count["sample_luma"] == count["motion"] == count["camera_x"]
    assert count["cut_s"] == count["cut_change"] == count["cut_ratio"]
    heights = {cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[0] for jpeg in jpegs}
    assert len(heights) == 1


def test_samples_and_stills_come_at_their_intervals(clips):
    config = ExamineConfig(sample_fps=2.0, still_every_s=1.0)
    row, _ = examine(str(clips / "videos" / "sam2_01_dog.mp4"), config)
    assert np.diff(row["sample_s"]) == pytest.approx(0.5, abs=0.1)
    assert len(row["still_s"]) == pytest.approx(row["duration_s"], abs=1)
    assert np.isnan(row["motion"][0::2][0])
    assert np.isfinite(row["motion"][1::2]).all()


def test_long_videos_are_refused(clips):
    with pytest.raises(MediaError) as error:
        examine(str(clips / "videos" / "sam2_01_dog.mp4"), ExamineConfig(max_duration_s=1.0))
    assert error.value.reason == "too_long"


def test_bad_settings_name_their_flag():
    with pytest.raises(ValueError, match=r"--examine\.sample-fps"):
        ExamineConfig(sample_fps=0)


def test_perceptual_hash_ignores_size_and_light_but_not_content(clips):
    owl = read_image(clips / "photos" / "test_data_owl.jpg")
    parrot = read_image(clips / "photos" / "test_data_parrot.jpg")

    def apart(a, b):
        return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()

    assert apart(owl, cv2.resize(owl, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)) <= 2
    assert apart(owl, (owl * 0.7).astype(np.uint8)) <= 4
    assert apart(owl, parrot) > 12


@pytest.mark.parametrize(("size", "stored"), [((16, 70_000), (15, 65_500)), ((70_000, 16), (65_500, 15))])
def test_a_strip_that_is_too_long_for_jpeg_has_a_still_too(tmp_path, size, stored):
    path = tmp_path / "strip.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    row, (jpeg,) = examine(str(path), ExamineConfig())
    assert (row["width"], row["height"]) == size
    with Image.open(io.BytesIO(jpeg)) as still:
        still.load()
        assert still.size == stored


def test_a_still_that_fits_is_stored_as_it_is():
    rgb = np.random.default_rng(0).integers(0, 256, (2, 65_500, 3), np.uint8)
    assert cv2.imdecode(np.frombuffer(encode_jpeg(rgb), np.uint8), cv2.IMREAD_COLOR).shape == rgb.shape


@pytest.mark.parametrize("orientation", [(1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, -1, 0)])
def test_black_bars_are_those_of_the_shown_picture(orientation):
    stored = np.zeros((40, 60), np.uint8)
    stored[4:30, 12:] = 200  # top 4/40, bottom 10/40, left 12/60
    expected = {
        (1, 0, 0, 1): [0.1, 0.25, 0.2, 0.0],
        (-1, 0, 0, -1): [0.25, 0.1, 0.0, 0.2],
        (0, 1, -1, 0): [0.2, 0.0, 0.25, 0.1],  # turned clockwise: stored left is at the top, stored bottom at the left
    }
    assert black_bars(stored, orientation) == pytest.approx(expected[orientation])
    assert black_bars(np.zeros_like(stored), orientation) == [0.0] * 4


def test_letterboxed_video_has_bars_and_a_still_one_no_change(tmp_path):
    path = tmp_path / "a.mp4"
    picture = np.random.default_rng(0).integers(60, 256, (128, 192, 3), np.uint8)
    picture = cv2.GaussianBlur(picture, (0, 0), 3)
    picture[:16] = picture[-16:] = 0
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        for _ in range(16):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    row, _ = examine(str(path), ExamineConfig())
    assert row["bars"] == pytest.approx([0.125, 0.125, 0, 0], abs=0.02)
    assert max(row["sample_diff"]) < 1
    assert row["cut_s"] == []


def test_a_set_aside_clip_can_be_replayed(clips):
    command = [sys.executable, "-m", "data_prep.measure.examine"]
    done = subprocess.run([*command, clips / "photos" / "test_data_owl.jpg"], capture_output=True, check=True)
    assert json.loads(done.stdout)["media_type"] == "image"
    failed = subprocess.run([*command, "/dev/null"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("not_a_file")
