import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.curate.balance import BalanceConfig, balance_concepts, find_concepts, thin, uniform_hash
from data_prep.curate.ledger import check


def blobs(sizes, width=32, seed=0):
    """Unit vectors around random centres, and which centre each belongs to."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), width))
    points = np.concatenate([c + 0.15 * rng.normal(size=(n, width)) for c, n in zip(centres, sizes)])
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return points, np.repeat(np.arange(len(sizes)), sizes)


def test_k_means_finds_the_concepts():
    points, truth = blobs([60, 30, 10])
    concepts = find_concepts(points, 3)
    for concept in range(3):
        assert len(set(concepts[truth == concept])) == 1
    assert len(set(concepts)) == 3


def test_large_concepts_are_thinned_and_small_ones_survive():
    concepts = np.repeat([0, 1], [25600, 256])
    names = [f"clip-{i}" for i in range(len(concepts))]
    stays = thin(names, concepts, 0.1)
    assert stays.sum() == round(0.1 * len(concepts))
    large, small = stays[concepts == 0].mean(), stays[concepts == 1].mean()
    # Weights 1/160 and 1/16: the odds of leaving are in the ratio of ten to one.
    assert np.log(1 - small) / np.log(1 - large) == pytest.approx(10, rel=0.3)
    assert (thin(names, concepts, 0.1) == stays).all()
    assert (thin(names, concepts, 0.1, seed=1) != stays).any()


def test_clips_elsewhere_hardly_change_which_ones_stay():
    concepts = np.repeat([0, 1], [500, 100])
    names = [f"clip-{i}" for i in range(600)]
    before = thin(names, concepts, 0.5)
    after = thin([*names, "new"], np.append(concepts, 1), 0.5)[:600]
    assert (before != after).mean() < 0.02


def test_the_hash_of_a_name_is_uniform():
    values = np.sort([uniform_hash(f"clip-{i}", 0) for i in range(2000)])
    assert np.abs(values - np.linspace(0, 1, 2000)).max() < 0.04
    assert uniform_hash("a", 0) == uniform_hash("a", 0) != uniform_hash("a", 1)


def test_one_clip_and_equal_clips():
    assert find_concepts(np.ones((1, 4), np.float32) / 2, 0).tolist() == [0]
    assert set(find_concepts(np.ones((5, 4), np.float32) / 2, 3)) == {0}
    with pytest.raises(ValueError, match=r"--balance\.keep"):
        BalanceConfig(keep=0.0)


def test_balancing_thins_the_large_concept_most_and_the_ledger_says_so(make, tmp_path):
    points, concept = blobs([320, 40, 40], width=16)
    broken = {"stage": "read", "verdict": "error", "reason": "truncated"}
    made = make(*({"embedding": p.astype(np.float16).tobytes()} for p in points), broken)
    concepts = balance_concepts(made.found, made.ledger, BalanceConfig(keep=0.5, clusters=3))
    assert concepts[-1] == -1
    assert set(concepts[:-1]) == {0, 1, 2}
    kept = made.ledger.kept[:-1]
    assert kept.sum() == 200
    shares = [kept[concept == k].mean() for k in range(3)]
    assert shares[0] < 0.5 < min(shares[1:])
    made.ledger.write(tmp_path / "l.parquet", "")
    counts = check(pq.read_table(tmp_path / "l.parquet"))
    assert (counts["kept"], counts["dropped"], counts["errors"]) == (200, 200, 1)
    assert set(made.ledger.reason[:-1][~kept]) == {"balanced_out"}


def test_nothing_to_balance(make):
    made = make({"stage": "spans", "verdict": "drop", "reason": "too_short"})
    assert balance_concepts(made.found, made.ledger, BalanceConfig()) is None
    assert balance_concepts(made.found, made.ledger, BalanceConfig(keep=0.5)).tolist() == [-1]
