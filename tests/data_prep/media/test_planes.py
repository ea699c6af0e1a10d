import av
import numpy as np
import pytest

from data_prep.media.planes import DeepPlane, grey, planes

H, W = 54, 90  # rows of 90 bytes are padded in memory


def frame_of(pixel_format, seed=0):
    rgb = np.random.default_rng(seed).integers(0, 256, (H, W, 3), np.uint8)
    return av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixel_format)


def everything(shape):
    return np.arange(shape[0])[:, None], np.arange(shape[1])


def test_planes_are_the_stored_samples_without_padding():
    frame = frame_of("yuv420p")
    luma, *chroma = planes(frame)
    assert np.array_equal(luma, frame.to_ndarray()[:H])
    assert [plane.shape for plane in chroma] == [(H // 2, W // 2)] * 2


def test_deep_samples_lose_their_lowest_bits_when_indexed():
    frame = frame_of("yuv420p10le")
    luma = planes(frame)[0]
    assert isinstance(luma, DeepPlane)
    assert luma[everything(luma.shape)].dtype == np.uint8
    assert np.array_equal(luma[everything(luma.shape)], frame.to_ndarray()[:H] >> 2)


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgra", "yuyv422", "nv12", "gbrp", "gray"])
def test_other_formats_become_planes(pixel_format):
    found = planes(frame_of(pixel_format))
    assert [plane.shape for plane in found] == [(H, W), (H // 2, W // 2), (H // 2, W // 2)]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_grey_is_stretched_to_full_range_and_resized(pixel_format):
    black, white = np.zeros((H, W, 3), np.uint8), np.full((H, W, 3), 255, np.uint8)
    for rgb, level in ((black, 0), (white, 255)):
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixel_format)
        small = grey(frame, planes(frame)[0], (9, 15))
        assert small.shape == (9, 15)
        assert np.abs(small.astype(int) - level).max() <= 1


def test_full_range_stays_as_it_is():
    frame = frame_of("yuvj420p")
    assert np.array_equal(grey(frame, planes(frame)[0], (H, W)), frame.to_ndarray()[:H])
