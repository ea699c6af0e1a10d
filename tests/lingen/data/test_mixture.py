from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.data.mixture import build_mixture, parse_ratio

SIZES = {"image_64x64": 7, "video_48x80_17f": 20, "video_64x64_17f": 5, "video_80x48_17f": 1}
VIDEOS = list(SIZES)[1:]


def mixture(sizes=SIZES, ratio="1:100", weighting="samples"):
    return build_mixture(sizes, parse_ratio(ratio), weighting, "folder")


@given(
    st.sampled_from(["1:100", "1:50", "0.3", "7:3"]),
    st.dictionaries(st.sampled_from(VIDEOS), st.integers(1, 10**9), min_size=1),
    st.integers(1, 2000),
)
@settings(max_examples=60, deadline=None)
def test_the_ratio_never_drifts_by_more_than_half_a_batch(ratio, videos, steps):
    mixed = mixture({"image_64x64": 9} | videos, ratio)
    share = parse_ratio(ratio) / (1 + parse_ratio(ratio))
    images = 0
    for step in range(steps):
        images += mixed.bucket(step)[0] == "image_64x64"
        assert abs(images - (step + 1) * share) <= Fraction(1, 2)


@given(st.dictionaries(st.sampled_from([*SIZES, "image_48x80"]), st.integers(1, 60), min_size=1), st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_a_bucket_knows_how_many_batches_it_had_before(sizes, steps):
    mixed = mixture(sizes, "1:3" if any(name.startswith("image") for name in sizes) else 0)
    had = Counter()
    for step in range(steps):
        name, before = mixed.bucket(step)
        assert before == had[name]
        had[name] += 1


def test_one_image_batch_in_101():
    mixed = mixture()
    media = Counter(mixed.bucket(step)[0].partition("_")[0] for step in range(1010))
    assert media == {"image": 10, "video": 1000}
    assert mixed.shares()["image_64x64"] == Fraction(1, 101)
    assert sum(mixed.shares().values()) == 1


def test_videos_share_their_batches_by_samples_or_equally():
    by_samples, equally = mixture(ratio=0), mixture(ratio=0, weighting="equal")
    assert by_samples.shares() == {name: Fraction(SIZES[name], 26) for name in VIDEOS}
    assert Counter(by_samples.bucket(step)[0] for step in range(260)) == {name: 10 * SIZES[name] for name in VIDEOS}
    assert Counter(equally.bucket(step)[0] for step in range(300)) == dict.fromkeys(VIDEOS, 100)


def test_images_alone_ignore_the_ratio():
    mixed = mixture({"image_64x64": 3})
    assert {mixed.bucket(step)[0] for step in range(50)} == {"image_64x64"}


def test_a_far_step_is_answered_in_closed_form():
    assert mixture().bucket(101 * 10**15 + 50) == ("image_64x64", 10**15)


def test_videos_without_images_are_refused_unless_asked_for():
    with pytest.raises(ValueError, match="no image buckets for 1/100; encode images, or set image_ratio 0"):
        mixture({"video_64x64_17f": 3})
    assert mixture({"video_64x64_17f": 3}, ratio=0).bucket(0) == ("video_64x64_17f", 0)


def test_no_bucket_and_an_unknown_weighting_are_refused():
    with pytest.raises(ValueError, match="folder: all buckets are empty"):
        mixture({})
    with pytest.raises(ValueError, match="weighting: 'loud' is unknown; use samples or equal"):
        mixture(weighting="loud")


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("1:100", Fraction(1, 100)),
        ("1/100", Fraction(1, 100)),
        (0.01, Fraction(1, 100)),
        ("7:3", Fraction(7, 3)),
        (0, 0),
    ],
)
def test_ratios_are_read_exactly(text, ratio):
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize("text", ["1:0", "many", "1:2:3", -1, ""])
def test_bad_ratios_are_named(text):
    with pytest.raises(ValueError, match=r"image_ratio: .* write 1:100, or 0 for no images"):
        parse_ratio(text)
