import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lingen.io.video import enlarge, frame_grid, to_uint8, write_mp4


def moving_bar(frames=12, height=48, width=80):
    video = np.zeros((frames, height, width, 3), np.uint8)
    for t in range(frames):
        video[t, :, t * 6 : t * 6 + 12] = (200, 80, 40)
    return video


def test_mp4_holds_the_frames_for_browsers(tmp_path):
    av = pytest.importorskip("av")
    video = moving_bar()
    path = write_mp4(tmp_path / "new" / "out.mp4", video, fps=16)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 16
        read = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
    assert read.shape == video.shape
    assert np.abs(read.astype(int) - video).mean() < 4
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat"), "index at the front"
    assert [p.name for p in path.parent.iterdir()] == ["out.mp4"]


WRITE = """
import os, sys
import numpy as np
from lingen.io.video import write_mp4

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
x, y, t = np.mgrid[:96, :96, :48]
waves = 127 + 100 * np.sin(x / 9 + t * 0.3) * np.cos(y / 13 - t * 0.1) + np.random.default_rng(0).normal(0, 4, x.shape)
frames = np.stack([waves, waves[::-1], waves[:, ::-1]], -1).clip(0, 255).astype(np.uint8)
write_mp4(sys.argv[1], frames.transpose(2, 0, 1, 3))
"""


@pytest.mark.slow
def test_the_same_frames_give_the_same_bytes_in_every_process(tmp_path):
    """Whatever is in memory that nobody wrote to (glibc fills it with a byte for this), and on any number of CPUs."""
    pytest.importorskip("av")
    written = set()
    for cpus, fill in ((1, "0"), (64, "0"), (64, "1"), (64, "85"), (64, "255")):
        command = [sys.executable, "-c", WRITE, str(tmp_path / "x.mp4"), str(cpus)]
        subprocess.run(command, env=os.environ | {"MALLOC_PERTURB_": fill}, check=True)
        written.add((tmp_path / "x.mp4").read_bytes())
    assert len(written) == 1
    assert len(written.pop()) < 40_000, "no worse compression for it"


@pytest.mark.parametrize("frames", [np.zeros((3, 8, 8, 3), np.float32), np.zeros((0, 8, 8, 3), np.uint8)])
def test_wrong_frames_are_named(tmp_path, frames):
    with pytest.raises(ValueError, match="frames: need uint8"):
        write_mp4(tmp_path / "x.mp4", frames)


def test_a_video_that_is_stopped_in_the_middle_leaves_nothing(tmp_path):
    def pieces():
        yield moving_bar()
        raise KeyboardInterrupt

    (tmp_path / "x.mp4").write_text("the one before")
    with pytest.raises(KeyboardInterrupt):
        write_mp4(tmp_path / "x.mp4", pieces())
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"]
    assert (tmp_path / "x.mp4").read_text() == "the one before"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refused(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(PermissionError) as error:
        write_mp4(tmp_path / "x.mp4", moving_bar())
    assert Path(error.value.filename).parent == tmp_path


def test_odd_sizes_lose_a_row_not_the_video(tmp_path):
    av = pytest.importorskip("av")
    write_mp4(tmp_path / "odd.mp4", moving_bar(3, 47, 81))
    with av.open(str(tmp_path / "odd.mp4")) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (46, 80)


def test_to_uint8_covers_the_range_and_clips():
    video = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 5, 1, 1).expand(3, 5, 1, 1)
    assert to_uint8(video)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]


def test_small_frames_are_enlarged_by_whole_pixels():
    video = moving_bar(2, 48, 80)
    large = enlarge(video, short_side=150)
    assert large.shape == (2, 144, 240, 3)
    assert (large[:, ::3, ::3] == video).all()
    assert enlarge(large, short_side=150) is large


def test_grid_shows_first_and_last_frame():
    video = moving_bar()
    grid = frame_grid([video, video[:2]], columns=4)
    assert grid.shape == (48 * 2 + 2, 4 * 82 - 2, 3)
    assert (grid[:48, :80] == video[0]).all()
    assert (grid[:48, -80:] == video[-1]).all()


def test_pieces_make_one_video(tmp_path):
    av = pytest.importorskip("av")
    video = moving_bar()
    write_mp4(tmp_path / "whole.mp4", video)
    write_mp4(tmp_path / "pieces.mp4", (video[i : i + 5] for i in range(0, 12, 5)))
    shown = []
    for name in ("whole", "pieces"):
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            shown.append([(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)])
    assert len(shown[0]) == len(shown[1]) == 12
    assert [t for t, _ in shown[1]] == [i / 16 for i in range(12)]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(*shown))
    with pytest.raises(ValueError, match="a piece of"):
        write_mp4(tmp_path / "x.mp4", iter([video, video[:, :20]]))
    assert not (tmp_path / "x.mp4").exists()
    with pytest.raises(ValueError, match="need uint8"):
        write_mp4(tmp_path / "x.mp4", iter([]))
