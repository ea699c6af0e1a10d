import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.curate.quality import (
    Proposal,
    QualityConfig,
    decisions,
    propose_quality_set,
    select_best,
    spreadsheet_csv,
    write_quality_set,
)


def test_the_best_of_every_concept_come_first_and_the_lower_half_never():
    technical = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], float)
    motion = technical.copy()
    groups = ["a", "a", "a", "b", "b", "b", "b", "b", "b", "b"]
    chosen = select_best({"technical": technical, "scene_motion": motion}, groups, 3, 40.0)
    assert [i for i, _ in chosen] == [0, 3, 1]
    everything = select_best({"technical": technical, "scene_motion": motion}, groups, 99, 50.0)
    assert {i for i, _ in everything} == {0, 1, 2, 3, 4}
    assert chosen[0][1] == pytest.approx(100)


def test_every_score_must_be_good_but_only_where_it_applies():
    technical = np.array([9.0, 9.0, 9.0, 1.0])
    motion = np.array([9.0, 0.0, np.nan, 8.0])
    chosen = {i for i, _ in select_best({"technical": technical, "scene_motion": motion}, "abcd", 4, 33.0)}
    assert chosen == {0, 2}


def test_the_set_is_spread_over_concepts_and_the_ledger_keeps_the_rest(make, tmp_path):
    rng = np.random.default_rng(0)
    concepts = np.where(np.arange(400) % 10 < 8, 0, np.arange(400) % 10 - 7)
    rows = [{"scene_motion": rng.uniform(1, 9), "technical": rng.uniform(4, 9)} for _ in concepts]
    made = make(*rows)
    chosen = propose_quality_set(made.found, made.ledger, concepts, QualityConfig(count=12, min_percentile=30))
    assert made.ledger.kept.all()
    assert all(taken for _, _, taken in chosen)
    assert np.bincount(concepts[[i for i, _, _ in chosen]], minlength=3).tolist() == [4, 4, 4]

    edited = tmp_path / "quality.csv"
    edited.write_text(f"keep,clip_id\nno,c{chosen[0].clip}\nyes,c{chosen[1].clip}\n")
    again = make(*rows)
    config = QualityConfig(count=12, min_percentile=30, decisions=edited)
    reviewed = propose_quality_set(again.found, again.ledger, concepts, config)
    assert [p.clip for p in reviewed if p.taken] == [p.clip for p in chosen[1:]]
    again.ledger.write(tmp_path / "l.parquet", "")
    rows = [r for r in pq.read_table(tmp_path / "l.parquet").to_pylist() if r["stage"] == "quality"]
    assert sorted(r["reason"] for r in rows) == ["quality_rejected"] + ["quality_selected"] * 11


def test_images_and_dropped_clips_are_not_proposed_and_files_are_written(make, tmp_path):
    good = {"technical": 9.0, "scene_motion": 9.0}
    made = make(good, good | {"media_type": "image"}, {"technical": 1.0, "scene_motion": 1.0}, good)
    made.ledger.decide("min_motion", "drop", "still", where=np.array([False, False, False, True]))
    proposals = propose_quality_set(made.found, made.ledger, None, QualityConfig(count=9))
    assert [p.clip for p in proposals] == [0]
    assert propose_quality_set(made.found, made.ledger, None, QualityConfig()) == []
    written = write_quality_set(tmp_path, made.found, [*proposals, Proposal(2, 0.0, taken=False)])
    assert written == ("quality.csv", "quality.parquet")
    assert decisions(tmp_path / "quality.csv") == {"c0": True, "c2": False}
    assert pq.read_table(tmp_path / "quality.parquet")["clip_id"].to_pylist() == ["c0"]


def test_a_person_edits_the_list_and_hostile_captions_stay_text(tmp_path):
    captions = ["=cmd|' /C calc'!A0", "+1", "@x", 'a "quoted", one', "plain"]
    rows = [{"keep": "yes", "clip_id": f"c{i}", "caption": c} for i, c in enumerate(captions)]
    text = spreadsheet_csv(rows, ["keep", "clip_id", "caption"])
    for line in text.splitlines()[1:4]:
        assert line.split(",", 2)[2].lstrip('"').startswith("'")
    path = tmp_path / "quality.csv"
    path.write_text(text.replace("yes,c1", "No ,c1").replace("yes,c4", "0,c4"))
    assert decisions(path) == {"c0": True, "c1": False, "c2": True, "c3": True, "c4": False}
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match=r"--quality\.decisions"):
        decisions(path)
    with pytest.raises(ValueError, match=r"--quality\.decisions"):
        QualityConfig(decisions=tmp_path / "nowhere.csv")
