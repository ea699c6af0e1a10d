"""Cuts found by a pass that leaves frames out, located among all frames."""

import av
import numpy as np
import pytest

from data_prep.measure.cuts import Candidate, CutFinder, ShotConfig, cuts
from data_prep.measure.exact_cuts import exact
from data_prep.media.frames import decode, read_frames
from data_prep.media.planes import planes
from data_prep.media.probe import probe


@pytest.fixture(scope="module")
def joined(clips, tmp_path_factory):
    """Three real shots of 25 frames end to end, in long runs of frames that nothing is predicted from."""
    path = tmp_path_factory.mktemp("joined") / "b.mp4"
    options = {"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=none:scenecut=0:keyint=250"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        for name in ("sam2_02_cups.mp4", "assets-for-api-docs_bee.mp4", "sam2_01_dog.mp4"):
            for pixels in read_frames(clips / "videos" / name, np.arange(25) / 25, (128, 192)):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def test_cuts_are_on_the_very_frame_though_frames_are_left_out(joined):
    known, finder, seen = probe(joined), CutFinder(), []
    for seconds, frame in decode(str(joined), known, skip=True):
        finder.add(seconds, planes(frame))
        seen.append(seconds)
    assert len(seen) < 0.4 * known.frame_count
    assert not np.isclose(seen, 1.0).any()  # the first frame of the second shot is not among them
    found = exact(str(joined), known, finder.candidates())
    assert cuts(found, ShotConfig()) == pytest.approx([1.0, 2.0], abs=1e-3)


def test_candidates_without_a_gap_or_below_suspicion_stay_and_false_ones_go(joined):
    known = probe(joined)
    no_gap = Candidate(1.04, 30, 0.3, 9.0, before_s=1.0)
    weak = Candidate(0.6, 4, 0.02, 1.5, before_s=0.4)
    false = Candidate(1.6, 30, 0.3, 9.0, before_s=1.4)
    assert exact(str(joined), known, [weak, no_gap, false]) == [weak, no_gap]
