import io
import os
import struct
import subprocess
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from data_prep.media.errors import MediaError
from data_prep.media.frames import read_frames
from data_prep.media.probe import open_image, probe

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


def photograph(exif, kind="JPEG"):
    """A wide photograph as bytes."""
    out = io.BytesIO()
    wide = np.tile(np.arange(64, dtype=np.uint8) * 4, (32, 1))
    Image.fromarray(wide).convert("RGB").save(out, kind, exif=exif)
    return out.getvalue()


def exif(*entries, tail=b""):
    """EXIF data with these entries of the first directory: (tag, type, count, value or offset)."""
    directory = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + tail


TURNED = (0x0112, 3, 1, b"\6\0\0\0")


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (exif(TURNED), (32, 64)),
        (exif((0x0112, 2, 2, b"6\0\0\0")), (64, 32)),  # text: '>=' not supported between 'str' and 'int'
        (exif((0x0112, 3, 1, b"\x63\0\0\0")), (64, 32)),
        (exif(TURNED, (0x0100, 2, 3, b"a\0\0\0"), (0x0102, 3, 0, b"abcd")), (32, 64)),  # struct.error on writing it
        (b"Exif\0\0II*\0\x08\0", (64, 32)),
        (b"Exif\0\0" + b"\xff" * 40, (64, 32)),
    ],
)
def test_damaged_exif_does_not_cost_the_picture(tmp_path, data, size):
    path = tmp_path / "a.jpg"
    path.write_bytes(photograph(data))
    known = probe(path)
    assert (known.width, known.height) == size
    assert open_image(str(path))[0].size == size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_photograph_is_as_high_as_it_is_shown(tmp_path, kind):
    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(photograph(turned, kind))
    image, size = open_image(str(path))
    assert image.size[::-1] == size == (64, 32)


def test_whatever_a_reader_of_photographs_raises_refuses_the_file(tmp_path):
    whole = photograph(b"", "AVIF")
    outcomes = set()
    for at in (81, 115, 209, 241):  # RuntimeError: four kinds
        path = tmp_path / "a.avif"
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        try:
            outcomes.add(probe(path).codec)
        except MediaError as error:
            outcomes.add(error.reason)
    assert "undecodable" in outcomes
    assert outcomes <= {"undecodable", "avif", "too_small", "unknown_format"}


def test_side_data_that_pyav_does_not_know_does_not_hide_the_rest(tmp_path):
    """FFmpeg attaches the EXIF of a frame, like the views of a spatial video; PyAV has no name for either."""
    turned = Image.Exif()
    turned[0x0112] = 5  # mirrored, too
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuvj420p"
        for i in range(3):
            packet = av.Packet(photograph(turned))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 10)
            out.mux(packet)
    with av.open(str(path)) as container:
        kinds = [data.type.value for data in next(container.decode(video=0)).side_data]
    assert not set(kinds) <= set(range(28))
    known = probe(path)
    assert (known.width, known.height, known.orientation) == (32, 64, (0, 1, 1, 0))
    brightness = read_frames(path, [0.1], (64, 32))[0].mean((1, 2))
    assert brightness[-8:].mean() > 200 > 40 > brightness[:8].mean()  # from left to right as stored


@pytest.mark.parametrize("path", ["/dev/zero", "/proc/kmsg", "pipe.mp4"])
def test_what_is_no_file_is_not_opened(tmp_path, path):
    if path == "pipe.mp4":
        os.mkfifo(tmp_path / path)
    with pytest.raises(MediaError) as error:
        probe(tmp_path / path)
    assert error.value.reason == "not_a_file"
