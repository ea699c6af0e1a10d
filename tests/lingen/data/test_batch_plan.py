from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingen.data.batch_plan import BatchPlan
from lingen.data.buckets import Bucket
from lingen.data.shard_index import ShardIndex


class Rows:
    """A bucket of n rows without files: the plan uses only lengths and keys."""

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


def test_one_image_batch_in_101_by_default():
    plan = BatchPlan(index(**SIZES), seed=0, batch_size=2)
    assert Counter(plan[step].bucket.media for step in range(1010)) == {"image": 10, "video": 1000}
    assert plan.shares()["image_64x64"] == Fraction(1, 101)
    assert sum(plan.shares().values()) == 1


def test_equal_weighting_shares_batches_equally():
    plan = BatchPlan(index(**SIZES), seed=0, batch_size=2, image_ratio=0, weighting="equal")
    assert Counter(plan[s].bucket.name for s in range(300)) == dict.fromkeys(list(SIZES)[1:], 100)


def test_empty_buckets_are_left_out_and_a_missing_medium_is_refused():
    with pytest.raises(ValueError, match="no image buckets for 1/100; encode images, or set image_ratio 0"):
        BatchPlan(index(video_64x64_17f=3, image_64x64=0), seed=0, batch_size=4)
    plan = BatchPlan(index(video_64x64_17f=3, image_64x64=0), seed=0, batch_size=4, image_ratio=0)
    assert {plan[s].bucket.media for s in range(20)} == {"video"}


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


def test_a_batch_may_be_one_sample():
    plan = BatchPlan(index(**SIZES), seed=0, batch_size=1, image_ratio=0)
    assert [len(plan[step].samples) for step in range(3)] == [1, 1, 1]


def test_steps_begin_at_0():
    plan = BatchPlan(index(**SIZES), seed=0, batch_size=4)
    assert plan[0].step == 0
    with pytest.raises(IndexError, match="step -1 is negative"):
        plan[-1]


def test_the_order_is_what_it_was():
    """Checkpoints of older runs rely on it: a change here changes what every resumed run sees next."""
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
