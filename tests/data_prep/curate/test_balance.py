import numpy as np
import pytest

from data_prep.curate.balance import BalanceConfig, cluster, thin


def blobs(sizes, width=32, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), width))
    points = np.concatenate([c + 0.15 * rng.normal(size=(n, width)) for c, n in zip(centres, sizes)])
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), np.repeat(
        np.arange(len(sizes)), sizes
    )


def test_clusters_are_the_concepts():
    points, truth = blobs([60, 30, 10])
    which = cluster(points, 3)
    for concept in range(3):
        assert len(set(which[truth == concept])) == 1
    assert len(set(which)) == 3


def test_large_concepts_are_thinned_and_small_ones_survive():
    which = np.repeat([0, 1], [25600, 256])
    names = [f"clip-{i}" for i in range(len(which))]
    stays = thin(names, which, 0.1)
    assert stays.sum() == round(0.1 * len(which))
    large, small = stays[which == 0].mean(), stays[which == 1].mean()
    # Weights 1/160 and 1/16: the odds of leaving are in the ratio of ten to one.
    assert np.log(1 - small) / np.log(1 - large) == pytest.approx(10, rel=0.3)
    assert (thin(names, which, 0.1) == stays).all()
    assert (thin(names, which, 0.1, seed=1) != stays).any()


def test_clips_elsewhere_hardly_change_who_stays():
    which = np.repeat([0, 1], [500, 100])
    names = [f"clip-{i}" for i in range(600)]
    before = thin(names, which, 0.5)
    after = thin([*names, "new"], np.append(which, 1), 0.5)[:600]
    assert (before != after).mean() < 0.02


def test_one_clip_and_equal_clips():
    assert cluster(np.ones((1, 4), np.float32) / 2, 0).tolist() == [0]
    assert set(cluster(np.ones((5, 4), np.float32) / 2, 3)) == {0}
    with pytest.raises(ValueError, match=r"--balance\.keep"):
        BalanceConfig(keep=0.0)
