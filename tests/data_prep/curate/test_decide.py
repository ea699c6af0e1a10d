from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.curate.balance import BalanceConfig
from data_prep.curate.candidates import SCHEMA, Candidates
from data_prep.curate.decide import judge
from data_prep.curate.job import CurateConfig
from data_prep.curate.ledger import check
from data_prep.curate.quality import QualityConfig
from data_prep.curate.scores import SCORES


def found(n, seed=0):
    """n good video clips of three concepts (in the ratio 8:1:1), and one broken input."""
    rng = np.random.default_rng(seed)
    concept = np.where(np.arange(n) % 10 < 8, 0, np.arange(n) % 10 - 7)
    centres = rng.normal(size=(3, 16))
    vectors = centres[concept] + 0.05 * rng.normal(size=(n, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows = [
        dict.fromkeys(SCORES, np.nan)
        | dict.fromkeys(("stage", "verdict", "reason", "detail", "uri"), "")
        | {"clip_id": f"c{i}", "row": i, "content_hash": f"h{i}", "media_type": "video", "caption": "words"}
        | {"motion": 5.0, "scene_motion": rng.uniform(1, 9), "technical": rng.uniform(4, 9)}
        | {"short_side": 480.0, "seconds": 4.0, "embedding": vectors[i].astype(np.float16).tobytes()}
        for i in range(n)
    ]
    broken = {"clip_id": "row-x", "row": n, "stage": "read", "verdict": "error", "reason": "truncated", "caption": ""}
    rows.append(dict.fromkeys(SCORES, np.nan) | {"media_type": "video", "content_hash": "", "uri": ""} | broken)
    return Candidates(pa.Table.from_pylist(rows, schema=SCHEMA)), concept


def config_of(**kwargs):
    from data_prep.curate.near_duplicates import DuplicateConfig
    from data_prep.measure.aesthetic import AestheticConfig

    off = DuplicateConfig(max_bits=None, min_cosine=None)
    aesthetic = AestheticConfig(weights="openai")
    return CurateConfig(input="x", output=Path("y"), duplicates=off, aesthetic=aesthetic, **kwargs)


def test_balancing_thins_the_large_concept_most_and_is_told(tmp_path):
    clips, concept = found(400)
    result = judge(clips, config_of(balance=BalanceConfig(keep=0.5, clusters=3)))
    kept = result.ledger.kept[:-1]
    assert kept.sum() == 200
    shares = [kept[concept == k].mean() for k in range(3)]
    assert shares[0] < 0.5 < min(shares[1:])
    result.ledger.write(tmp_path / "l.parquet", "")
    counts = check(pq.read_table(tmp_path / "l.parquet"))
    assert (counts["kept"], counts["dropped"], counts["errors"]) == (200, 200, 1)
    assert set(result.ledger.reason[:-1][~kept]) == {"balanced_out"}


def test_the_quality_set_is_spread_over_concepts_and_takes_nothing_from_the_rest(tmp_path):
    clips, concept = found(400)
    whole = config_of(balance=BalanceConfig(keep=1.0, clusters=3), quality=QualityConfig(count=12, min_percentile=30))
    result = judge(clips, whole)
    assert result.ledger.kept[:-1].all()
    chosen = [i for i, _, taken in result.quality if taken]
    assert np.bincount(concept[chosen], minlength=3).tolist() == [4, 4, 4]
    edited = tmp_path / "quality.csv"
    edited.write_text(f"keep,clip_id\nno,c{chosen[0]}\nyes,c{chosen[1]}\n")
    quality = QualityConfig(count=12, min_percentile=30, decisions=edited)
    again = judge(clips, config_of(balance=BalanceConfig(keep=1.0, clusters=3), quality=quality))
    assert [i for i, _, taken in again.quality if taken] == chosen[1:]
    again.ledger.write(tmp_path / "l.parquet", "")
    rows = [r for r in pq.read_table(tmp_path / "l.parquet").to_pylist() if r["stage"] == "quality"]
    assert sorted(r["reason"] for r in rows) == ["quality_rejected"] + ["quality_selected"] * 11


def test_balancing_without_embeddings_is_refused():
    with pytest.raises(ValueError, match=r"--balance\.keep"):
        CurateConfig(input="x", output=Path("y"), balance=BalanceConfig(keep=0.5))
