import numpy as np
import pytest

from data_prep.curate.quality import QualityConfig, decisions, propose, write_csv


def test_the_best_of_every_concept_come_first_and_the_lower_half_never():
    technical = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], float)
    motion = technical.copy()
    groups = ["a", "a", "a", "b", "b", "b", "b", "b", "b", "b"]
    chosen = propose({"technical": technical, "scene_motion": motion}, groups, 3, 40.0)
    assert [i for i, _ in chosen] == [0, 3, 1]
    everything = propose({"technical": technical, "scene_motion": motion}, groups, 99, 50.0)
    assert {i for i, _ in everything} == {0, 1, 2, 3, 4}
    assert chosen[0][1] == pytest.approx(100)


def test_every_score_must_be_good_but_only_where_it_applies():
    technical = np.array([9.0, 9.0, 9.0, 1.0])
    motion = np.array([9.0, 0.0, np.nan, 8.0])
    chosen = {i for i, _ in propose({"technical": technical, "scene_motion": motion}, "abcd", 4, 33.0)}
    assert chosen == {0, 2}


def test_a_person_edits_the_list_and_hostile_captions_stay_text(tmp_path):
    captions = ["=cmd|' /C calc'!A0", "+1", "@x", 'a "quoted", one', "plain"]
    rows = [{"keep": "yes", "clip_id": f"c{i}", "caption": c} for i, c in enumerate(captions)]
    text = write_csv(rows, ["keep", "clip_id", "caption"])
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
