from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.data.batch_plan import BatchPlan, parse_ratio, permute
from lingen.data.buckets import Bucket
from lingen.data.shard_index import ShardIndex


class Rows:
    """A bucket of n rows without files: the plan asks for lengths and keys alone."""

    def __init__(self, name, n):
        self.bucket, self.n = Bucket.parse(name), n

    def __len__(self):
        return self.n

    def key(self, row):
        return self.keys([row])[0]

    def keys(self, rows):
        assert all(0 <= r < self.n for r in rows)
        return [f"{self.bucket.name}/{r}" for r in rows]


def index(**sizes):
    return ShardIndex({name: Rows(name, n) for name, n in sizes.items()}, "folder")


SIZES = {"image_64x64": 7, "video_48x80_17f": 20, "video_64x64_17f": 5, "video_80x48_17f": 1}


@given(
    sizes=st.dictionaries(st.sampled_from([*SIZES, "image_48x80"]), st.integers(1, 60), min_size=1),
    batch=st.integers(8, 17),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**7),
)
@settings(max_examples=60, deadline=None)
def test_any_number_of_workers_takes_the_same_global_batch(sizes, batch, seed, step):
    ratio = "1:100" if any(n.startswith("image") for n in sizes) else 0
    planned = BatchPlan(index(**sizes), seed=seed, batch_size=batch, image_ratio=ratio)[step]
    assert len(planned.samples) == batch
    for world_size in (1, 2, 3, 8):
        shares = [planned.slice(rank, world_size) for rank in range(world_size)]
        assert [p for share in shares for p in share] == list(range(batch))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(0, 300), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_resumed_plan_is_one_that_never_stopped(step, seed):
    ongoing = BatchPlan(index(**SIZES), seed=seed, batch_size=4)
    for s in range(step):
        ongoing[s]
    assert ongoing[step] == BatchPlan(index(**SIZES), seed=seed, batch_size=4)[step]


@given(
    st.sampled_from(["1:100", "1:50", "0.3", "7:3"]),
    st.dictionaries(st.sampled_from(list(SIZES)[1:]), st.integers(1, 10**9), min_size=1),
    st.integers(1, 2000),
)
@settings(max_examples=60, deadline=None)
def test_the_ratio_never_drifts_by_more_than_one_batch(ratio, videos, steps):
    plan = BatchPlan(index(image_64x64=9, **videos), seed=0, batch_size=1, image_ratio=ratio)
    share = parse_ratio(ratio) / (1 + parse_ratio(ratio))
    images = 0
    for step in range(steps):
        images += plan._tree.leaf(step)[0] == "image_64x64"
        assert abs(images - (step + 1) * share) <= Fraction(1, 2)


def test_one_image_batch_in_101():
    plan = BatchPlan(index(**SIZES), seed=0, batch_size=2)
    media = Counter(plan[step].bucket.media for step in range(1010))
    assert media == {"image": 10, "video": 1000}
    assert plan.shares()["image_64x64"] == Fraction(1, 101)
    assert sum(plan.shares().values()) == 1


def test_every_sample_comes_once_per_pass():
    plan = BatchPlan(index(**SIZES), seed=3, batch_size=4, image_ratio="1:10")
    rows = {name: [] for name in SIZES}
    for step in range(660):
        batch = plan[step]
        rows[batch.bucket.name] += [s.row for s in batch.samples]
    for name, n in SIZES.items():
        passes = [rows[name][i : i + n] for i in range(0, len(rows[name]) - n + 1, n)]
        assert len(passes) > 10
        assert all(sorted(p) == list(range(n)) for p in passes)
        if n > 1:
            assert len({tuple(p) for p in passes}) > len(passes) // 2
    # weighted by samples: all videos are seen equally often
    seen = Counter(r for name in SIZES if name != "image_64x64" for r in [(name, x) for x in rows[name]])
    assert max(seen.values()) - min(seen.values()) <= 8  # a batch of the one-sample bucket shows it 4 times at once


def test_equal_weighting_shares_batches_equally():
    plan = BatchPlan(index(**SIZES), seed=0, batch_size=2, image_ratio=0, weighting="equal")
    assert Counter(plan[s].bucket.name for s in range(300)) == dict.fromkeys(list(SIZES)[1:], 100)


@given(st.integers(1, 5000), st.integers(0, 2**64))
@settings(deadline=None)
def test_permute_is_a_permutation(n, key):
    assert np.array_equal(np.sort(permute(np.arange(n, dtype=np.uint64), n, key)), np.arange(n))


def test_permute_reaches_far_sizes():
    n = 300_000_001
    rows = permute(np.arange(n - 5000, n, dtype=np.uint64), n, key=1)
    assert len(set(rows.tolist())) == 5000
    assert 0 <= rows.min() <= rows.max() < n
    assert abs(rows.mean() / n - 0.5) < 0.02


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_permutations_of_few_places_are_fair(n):
    """Chi-square of where each place goes over 1000 keys, against its 99.99% bound."""
    counts = np.zeros((n, n))
    for key in range(1000):
        counts[np.arange(n), permute(np.arange(n, dtype=np.uint64), n, key)] += 1
    chi2 = ((counts - 1000 / n) ** 2 / (1000 / n)).sum()
    freedom = (n - 1) ** 2
    assert chi2 < freedom + 4.5 * np.sqrt(2 * freedom) + 12


def test_all_orders_of_four_are_equally_likely():
    counts = Counter(tuple(permute(np.arange(4, dtype=np.uint64), 4, key)) for key in range(1200))
    assert len(counts) == 24
    assert sum((n - 50) ** 2 / 50 for n in counts.values()) < 60  # chi-square, 23 degrees of freedom


def test_neighbours_do_not_stay_neighbours():
    orders = [permute(np.arange(1000, dtype=np.uint64), 1000, key) for key in range(200)]
    assert 0.75 < np.mean([(np.diff(order) == 1).sum() for order in orders]) < 1.25  # 1 in a fair shuffle
    assert abs(np.mean([np.corrcoef(order[:-1], order[1:])[0, 1] for order in orders])) < 0.01


def test_seeds_differ_and_drops_follow_the_probability():
    plan = BatchPlan(index(**SIZES), seed=5, batch_size=50, text_dropout=0.1)
    samples = [s for step in range(200) for s in plan[step].samples]
    assert len({s.seed for s in samples}) == 10_000
    assert all(0 <= s.seed < 2**63 for s in samples)
    assert abs(sum(s.drop_text for s in samples) / 10_000 - 0.1) < 0.015
    for p, expected in ((0.0, {False}), (1.0, {True})):
        plan = BatchPlan(index(**SIZES), seed=5, batch_size=50, text_dropout=p)
        assert {s.drop_text for s in plan[0].samples} == expected


def test_seeds_do_not_depend_on_the_number_of_samples_or_dropout():
    a = BatchPlan(index(**SIZES), seed=5, batch_size=5, text_dropout=0.0)[9]
    b = BatchPlan(index(image_64x64=99, video_48x80_17f=3), seed=5, batch_size=5, text_dropout=1.0)[9]
    assert [s.seed for s in a.samples] == [s.seed for s in b.samples]


def test_replacements_are_of_the_same_bucket_and_pure():
    plan = BatchPlan(index(**SIZES), seed=5, batch_size=4)
    for step in range(20):
        rows = set()
        for attempt in range(30):
            sample = plan.replacement(step, 2, attempt)
            assert sample == BatchPlan(index(**SIZES), seed=5, batch_size=4).replacement(step, 2, attempt)
            assert sample.seed == plan[step].samples[2].seed
            assert sample.key.startswith(plan[step].bucket.name)
            rows.add(sample.row)
        assert len(rows) > len(plan._buckets[plan[step].bucket.name]) // 2


def test_a_far_step_costs_no_more_than_the_first():
    plan = BatchPlan(index(**SIZES), seed=0, batch_size=4)
    assert plan[10**15].step == 10**15


def test_images_alone_ignore_the_ratio():
    plan = BatchPlan(index(image_64x64=3), seed=0, batch_size=2)
    assert {plan[s].bucket.name for s in range(50)} == {"image_64x64"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"text_dropout": 1.5}, "text_dropout"),
        ({"weighting": "loud"}, "weighting"),
        ({"image_ratio": "1:0"}, "image_ratio"),
        ({"image_ratio": "many"}, "image_ratio"),
        ({"image_ratio": -1}, "image_ratio"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        BatchPlan(index(**SIZES), **({"seed": 0, "batch_size": 4} | change))


def test_videos_without_images_are_refused_unless_asked_for():
    with pytest.raises(ValueError, match="no image buckets for 1/100; encode images, or set image_ratio 0"):
        BatchPlan(index(video_64x64_17f=3), seed=0, batch_size=4)
    assert BatchPlan(index(video_64x64_17f=3), seed=0, batch_size=4, image_ratio=0)[0].bucket.media == "video"


def test_the_order_is_what_it_was():
    """Checkpoints of older runs resume on it: a change here changes what every resumed run sees next."""
    plan = BatchPlan(index(**SIZES), seed=11, batch_size=3)
    found = [(plan[s].bucket.name, [x.row for x in plan[s].samples]) for s in (0, 1, 50, 10**6)]
    assert found == GOLDEN
    assert [x.seed for x in plan[7].samples] == GOLDEN_SEEDS


GOLDEN = [
    ("video_48x80_17f", [5, 0, 6]),
    ("video_48x80_17f", [1, 12, 3]),
    ("image_64x64", [5, 0, 1]),
    ("video_64x64_17f", [3, 1, 3]),
]
GOLDEN_SEEDS = [6013097663848295540, 8742054977685037751, 5922324315892052250]
