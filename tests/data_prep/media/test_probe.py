import struct
import subprocess
import zlib

import av
import numpy as np
import pytest

from data_prep.media.errors import MediaError
from data_prep.media.frames import read_frames
from data_prep.media.probe import probe

# The odd files that must be refused, with the reason; all others must be accepted.
ODD = {
    "moviepy_result.webm": "empty_file",
    "streamio-ffmpeg_empty.flv": "truncated",
    "streamio-ffmpeg_broken.mp4": "truncated",
    "mediabunny_annex-b.mp4": "truncated",
    "mp4parser_example-sans-amf0.mp4": "truncated",
    "sharp_truncated.jpg": "truncated",
    "media_sample_malformed_free_box.mp4": "damaged_container",
    "mp4parse-rust_chunk_out_of_range.mp4": "damaged_container",
    "media_sample_fragmented_clearkey.mp4": "encrypted",
    "assets-for-api-docs_encrypted_bee0.ts": "encrypted",
    "media_invalid-bitstream.webm": "undecodable",
    "Pillow_broken_data_stream.png": "undecodable",
    "test-assets_IMG_2682.heic": "unsupported_codec",
    "moviepy_-video-with-dash-.mp4": "too_small",
    "popcorn-js_trailer.mp4": "too_small",
}
SHOWN = {
    # name: (width, height, frames shown, rotation)
    "ExoPlayer_video_1.mp4": (288, 352, 23, 270),
    "PHP-FFMpeg_portrait.MOV": (320, 568, 62, 90),
    "media_sample_edit_list.mp4": (1080, 1920, 77, 90),  # 86 stored, 9 outside the edit list
    "media_sample_rotate_and_reflect.mp4": (720, 1080, 30, 90),
    "mediabunny_sar_2x1.mp4": (1280, 360, 150, 0),
    "rails_video_with_rectangular_samples.mp4": (1920, 1080, 46, 0),
    "mp4parse-rust_no_timescale.mp4": (320, 240, 182, 0),  # the matrix says -2147483648 degrees
    "VideoProcessingFramework_test_res_change.h264": (848, 464, 96, 0),
    "media_8k24fps_300ms.mp4": (7680, 4320, 8, 0),
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_unusable_files_are_refused_with_the_right_reason(clips, name):
    with pytest.raises(MediaError) as error:
        probe(clips / "odd" / name)
    assert error.value.reason == ODD[name]
    assert "\n" not in error.value.detail


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_sizes_and_frames_are_as_shown(clips, name):
    p = probe(clips / "odd" / name)
    assert (p.width, p.height, p.frame_count, p.rotation) == SHOWN[name]


def test_every_other_odd_file_is_accepted(clips):
    for path in sorted((clips / "odd").iterdir()):
        if path.name not in ODD:
            p = probe(path)
            assert p.width >= 16
            assert p.media_type == "image" or (p.duration_s > 0 and p.frame_count == len(p.times_s))


def test_lying_duration_is_replaced_by_the_packets(clips):
    p = probe(clips / "odd" / "media_sample_fragmented.mp4")  # some readers believe 143165 s
    assert p.duration_s == pytest.approx(1.0, abs=0.05)


def test_variable_rate_and_hdr_are_seen(clips):
    assert probe(clips / "odd" / "mediabunny_cursed-vfr.mp4").variable_rate
    assert not probe(clips / "videos" / "sam2_01_dog.mp4").variable_rate
    assert probe(clips / "videos" / "media_hdr10-av1.mp4").hdr == "pq"
    assert probe(clips / "videos" / "media_sample.video.mp4").hdr == "hlg"


def test_audio_alone_is_not_a_video(tmp_path):
    path = tmp_path / "tone.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        samples = np.zeros((1, 4096), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    with pytest.raises(MediaError, match="no_video_stream"):
        probe(path)


def test_hevc_in_avi_is_read_where_the_file_names_it(clips, tmp_path, ffmpeg):
    path = tmp_path / "hevc.avi"
    source = clips / "videos" / "media_sample.video.mp4"
    subprocess.run([ffmpeg, "-v", "error", "-i", source, "-an", "-c", "copy", "-tag:v", "HEVC", path], check=True)
    known = probe(path)
    assert (known.codec, known.container, known.width, known.frame_count) == ("hevc", "avi", 1920, 73)
    assert read_frames(path, [1.0], (90, 160)).std() > 10


@pytest.mark.parametrize("name", ["concat:a|b.mp4", "http://127.0.0.1:9/x.mp4", "-y.mp4", "a\0b.mp4", "nowhere.mp4"])
def test_names_are_names_and_not_protocols_or_flags(name):
    with pytest.raises(MediaError, match="file_missing"):
        probe(name)


def test_cutting_a_real_file_short_is_noticed(clips, tmp_path):
    data = (clips / "videos" / "sam2_01_dog.mp4").read_bytes()
    for keep in (0.001, 0.3, 0.6):
        path = tmp_path / "cut.mp4"
        path.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(MediaError, match="truncated"):
            probe(path)


def test_decompression_bomb_is_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    ihdr = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + ihdr
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IEND"
    )
    with pytest.raises(MediaError, match="too_large"):
        probe(path)
