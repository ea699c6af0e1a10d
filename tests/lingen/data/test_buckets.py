import pytest
from hypothesis import given
from hypothesis import strategies as st

from lingen.data.buckets import Bucket, bucket_set, bucket_size, nearest_bucket, side_multiple

RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4")


@pytest.mark.parametrize(
    ("resolution", "ratio", "size"),
    [(256, 1, (256, 256)), (256, 16 / 9, (192, 352)), (512, 16 / 9, (384, 704)), (64, 16 / 9, (48, 80))],
)
def test_the_papers_shapes_come_out(resolution, ratio, size):
    assert bucket_size(resolution, ratio) == size


@given(st.sampled_from(["image", "video"]), st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 2000))
def test_a_name_tells_the_whole_bucket(media, height, width, frames):
    bucket = Bucket(media, height, width, frames if media == "video" else 1)
    assert Bucket.parse(bucket.name) == bucket


@pytest.mark.parametrize("name", ["image_64x64_2f", "video_64x64", "video_0x64_8f", "../x", "image_64x64\n", ""])
def test_a_wrong_name_is_refused(name):
    with pytest.raises(ValueError, match="bucket"):
        Bucket.parse(name)


@given(st.integers(4, 128).map(lambda n: 16 * n), st.floats(0.4, 2.5))
def test_sizes_keep_area_and_proportions(resolution, ratio):
    height, width = bucket_size(resolution, ratio)
    assert height % 16 == width % 16 == 0
    slack = side_multiple(resolution) / min(height, width)
    assert abs(height * width / resolution**2 - 1) < 1.1 * slack
    assert abs(width / height / ratio - 1) < 1.1 * slack


def test_512p_is_256p_doubled():
    small, large = (bucket_set(r, RATIOS, [1, 272]) for r in (256, 512))
    assert [(2 * b.height, 2 * b.width) for b in small] == [(b.height, b.width) for b in large]


def test_the_nearest_bucket_has_the_nearest_proportions():
    buckets = bucket_set(256, RATIOS, [272])
    assert nearest_bucket(buckets, 1920, 1080).name == "video_192x352_272f"
    assert nearest_bucket(buckets, 1080, 1920).name == "video_352x192_272f"
    assert nearest_bucket(buckets, 640, 480).name == "video_224x288_272f"
    assert nearest_bucket(buckets, 500, 500).name == "video_256x256_272f"


def test_an_odd_resolution_is_refused():
    with pytest.raises(ValueError, match="resolution: 100"):
        bucket_set(100, RATIOS, [1])


def test_latent_shape():
    assert Bucket("video", 192, 352, 272).latent_shape() == (16, 34, 24, 44)
    assert Bucket("video", 48, 80, 17).latent_shape() == (16, 3, 6, 10)
    assert Bucket("image", 64, 64).latent_shape() == (16, 1, 8, 8)
