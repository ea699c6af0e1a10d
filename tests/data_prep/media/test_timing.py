import numpy as np
import pytest

from data_prep.media.container import open_video, video_stream
from data_prep.media.timing import header_seconds, read_timing


def timing_of(path):
    with open_video(str(path)) as container:
        return read_timing(str(path), container, video_stream(container))


@pytest.mark.parametrize("bf", [0, 2])
def test_times_are_those_that_were_written_in_order_of_display(tmp_path, numbered_video, bf):
    times = np.array([0, 40, 80, 500, 520, 1500, 1540, 1580])
    timing = timing_of(numbered_video(tmp_path / "a.mp4", times.tolist(), bf=bf, g=4, sc_threshold=0))
    assert timing.times_s * 1000 == pytest.approx(times, abs=0.5)
    assert timing.keyframes_s * 1000 == pytest.approx([0, 520], abs=0.5)
    assert (timing.packets, timing.damaged, timing.decode_times) == (8, False, False)


def test_reordered_avi_is_timed_by_the_decoder(tmp_path, numbered_video):
    path = numbered_video(tmp_path / "a.avi", list(range(0, 480, 40)), codec="mpeg4", rate=25, bf=2, g=12)
    timing = timing_of(path)
    assert timing.decode_times
    assert timing.times_s == pytest.approx(np.arange(12) / 25)
    assert timing.packets == 12


def test_a_stream_without_times_has_packets_only(clips):
    timing = timing_of(clips / "odd" / "VideoProcessingFramework_test_res_change.h264")
    assert (timing.packets, timing.first_pts, timing.last_s) == (96, None, 0.0)
    assert timing.times_s.tolist() == timing.keyframes_s.tolist() == [0.0]


def test_frames_outside_the_edit_list_are_not_shown(clips):
    timing = timing_of(clips / "odd" / "media_sample_edit_list.mp4")
    assert (len(timing.times_s), timing.packets) == (77, 86)


def test_a_duration_that_the_sound_may_set_is_not_believed(clips, tmp_path, numbered_video):
    path = numbered_video(tmp_path / "a.mkv", list(range(0, 2000, 200)))
    with open_video(str(path)) as container:
        assert header_seconds(container, video_stream(container)) == pytest.approx(1.8, abs=0.05)
    with open_video(str(clips / "videos" / "interactive-examples_stream-of-water-audioless.webm")) as container:
        assert container.streams.audio  # in spite of its name
        assert container.duration
        assert header_seconds(container, video_stream(container)) == 0.0
