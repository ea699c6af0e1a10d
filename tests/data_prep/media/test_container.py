import subprocess

import numpy as np
import pytest

from data_prep.media.container import open_video, video_stream
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
