import subprocess

import av
import numpy as np
import pytest

from data_prep.media.container import demux, is_plainly, open_video, video_stream
from data_prep.media.errors import MediaError


def reason(path):
    with pytest.raises(MediaError) as error:
        open_video(str(path))
    return error.value.reason


def test_a_playlist_cannot_pull_in_another_file(clips, tmp_path):
    target = clips / "videos" / "media_bear-vp9.webm"
    playlist = tmp_path / "innocent.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile://{target}\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "innocent.txt"
    concat.write_text(f"ffconcat version 1.0\nfile '{target}'\n")
    assert reason(playlist) == reason(concat) == "unknown_format"


def test_refusals_tell_what_the_bytes_are(tmp_path):
    def written(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    box = b"\0\0\0\x10ftypisom\0\0\0\0"
    noise = np.random.default_rng(0).bytes(1 << 16)
    assert reason(written("a.mp4", box + b"\0\0\0\x08mdat")) == "truncated"
    assert reason(written("c.mp4", b"\0\0\0\x08mdat pssh")) == "encrypted"
    assert reason(written("d.ts", noise)) == "encrypted"  # an encrypted HLS segment
    assert reason(written("d.bin", noise)) == "unknown_format"


def test_cover_art_is_not_a_video_stream(clips, tmp_path, ffmpeg):
    with open_video(str(clips / "videos" / "sam2_01_dog.mp4")) as container:
        assert video_stream(container).codec_context.name == "h264"
    song, cover = tmp_path / "song.mp3", clips / "photos" / "test_data_owl.jpg"
    sound = ["-f", "lavfi", "-i", "sine=duration=1", "-i", str(cover), "-map", "0", "-map", "1"]
    subprocess.run([ffmpeg, "-v", "error", *sound, "-disposition:v:0", "attached_pic", str(song)], check=True)
    with open_video(str(song)) as container:
        assert len(container.streams.video) == 1
        assert video_stream(container) is None


@pytest.mark.parametrize(
    ("name", "codec", "unknown"),
    [
        ("videos/sam2_01_dog.mp4", b"avc1", b"zzzz"),
        ("videos/sample-videos_book.mkv", b"V_MPEG4/ISO/AVC", b"V_NOBODY/EVER/X"),
    ],
)
def test_pictures_that_nobody_can_decode_are_said_to_be_so(clips, tmp_path, name, codec, unknown):
    path = tmp_path / f"a{name[-4:]}"
    path.write_bytes((clips / name).read_bytes().replace(codec, unknown))
    with open_video(str(path)) as container, pytest.raises(MediaError) as error:
        video_stream(container)
    assert error.value.reason == "unsupported_codec"


def test_a_second_stream_is_taken_where_only_that_can_be_decoded(clips, tmp_path, ffmpeg):
    source, path = clips / "videos" / "learning-area_frog.mp4", tmp_path / "two.mkv"
    pictures = ["-map", "0:v", "-map", "0:v", "-c:v:0", "ffv1", "-c:v:1", "copy", "-frames:v", "3"]
    subprocess.run([ffmpeg, "-v", "error", "-i", str(source), *pictures, str(path)], check=True)
    path.write_bytes(path.read_bytes().replace(b"V_FFV1", b"V_NONE"))
    with open_video(str(path)) as container:
        assert video_stream(container).codec_context.name == "h264"


def test_packets_end_where_the_container_breaks_off(clips):
    with open_video(str(clips / "videos" / "sam2_01_dog.mp4")) as container:
        stream, errors = video_stream(container), []

        class Broken:
            def demux(self, stream):
                yield next(container.demux(stream))
                raise av.error.InvalidDataError(1, "nothing behind this")

        packets = list(demux(Broken(), stream, errors.append))
    assert [packet.size > 0 for packet in packets] == [True, False]
    assert len(errors) == 1
    assert len(packets[0].decode() + packets[1].decode()) == 1  # the empty one makes the decoder give what it holds


def test_only_first_bytes_that_no_other_demuxer_would_take_are_plain(clips):
    def head(name):
        return (clips / name).read_bytes()[:128]

    mov, webm = head("videos/sam2_01_dog.mp4"), head("videos/media_bear-vp9.webm")
    assert is_plainly("mov", mov)
    assert is_plainly("matroska", webm)
    assert is_plainly("matroska", head("videos/sample-videos_book.mkv"))
    assert not is_plainly("mov", webm)
    assert not is_plainly("matroska", mov)
    assert not is_plainly("avi", mov)
    assert not is_plainly("mov", b"#EXTM3U\n" + mov)
    assert not is_plainly("mov", b"#EXT" + mov[4:])  # a size that is text
    outside = webm.replace(b"\x01\0\0\0\0\0\0\x1f", b"\x01\0\0\0\0\0\0\x04")  # the header ends before its type
    assert outside != webm
    assert not is_plainly("matroska", outside)
