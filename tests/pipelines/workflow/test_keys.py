"""What is in a step's key, and what is told of a change."""

import dataclasses
import json
from pathlib import Path

import pytest

from lingen.io.manifest import OutputFolder, digest
from pipelines.recipes import RECIPES
from pipelines.workflow import keys
from pipelines.workflow.keys import KeyMaker, differences, flags_by_name, read_keys
from pipelines.workflow.steps import WorkflowStep, steps_of

DEMO = RECIPES["demo"]


def made(folder, recipe=DEMO, **options):
    """Name -> step, and a maker of their keys."""
    steps = steps_of(recipe, folder, options.get("clips"))
    return {step.name: step for step in steps}, KeyMaker(folder, steps, options.get("clips"), options.get("quality"))


def with_fit(index, **changes):
    """The demo's recipe with other training settings of one stage."""
    stages = list(DEMO.stages)
    stages[index] = dataclasses.replace(stages[index], fit=dataclasses.replace(stages[index].fit, **changes))
    return dataclasses.replace(DEMO, stages=tuple(stages))


def test_a_changed_setting_of_a_stage_is_in_its_key_and_told(tmp_path):
    steps, maker = made(tmp_path)
    changed, again = made(tmp_path, with_fit(1, lr=0.001))
    assert [name for name in steps if maker.key(steps[name]) != again.key(changed[name])] == ["train demo_t2v_64p_1s"]
    name = "train demo_t2v_64p_1s"
    (told,) = differences(maker.key(steps[name]), again.key(changed[name]))
    assert told == f"the recipe's fit.lr was {DEMO.stages[1].fit.lr} and is 0.001"


def test_what_does_not_change_the_weights_is_not_in_the_key(tmp_path):
    steps, maker = made(tmp_path)
    changed, again = made(tmp_path, with_fit(1, checkpoint_every=7, log_every=3))
    assert all(maker.key(steps[name]) == again.key(changed[name]) for name in steps)


def test_workers_and_devices_are_not_in_the_key_and_the_spelling_of_the_folder_is_not(tmp_path, monkeypatch):
    flags = ("--shards", "x", "--fit.micro_batch=2", "--prompts", "a", "b", "--serve-shorter")
    how = ("--workers.count", "2", "--device", "cuda", "--decode.workers", "3", "--threads", "2", "--mlflow", "uri")
    named = {"--shards": ["x"], "--fit.micro-batch": ["2"], "--prompts": ["a", "b"], "--serve-shorter": []}
    assert flags_by_name((*flags, *how)) == named
    monkeypatch.chdir(tmp_path)
    steps, maker = made(tmp_path / "out")
    relative, other = made(Path("out"))
    assert all(maker.key(steps[name]) == other.key(relative[name]) for name in steps)


def test_inputs_count_once_they_are_made_and_with_the_version_of_their_job(tmp_path, monkeypatch):
    steps, maker = made(tmp_path)
    before = maker.key(steps["train TAE"])
    OutputFolder.open(steps["curate"].output, "curate", {"a": 1}, {}).publish({})
    made_once = maker.key(steps["train TAE"])
    assert differences(before, made_once) == ["'curate', which it reads, was made anew"]
    monkeypatch.setitem(keys.VERSIONS, "curate", 2)
    assert differences(made_once, maker.key(steps["train TAE"])) == ["'curate', which it reads, was made anew"]
    (told,) = differences(maker.key(steps["curate"]) | {"version": 1}, maker.key(steps["curate"]))
    assert told == "its job's code makes another result since version 2"


def test_changed_files_of_clips_and_of_the_reviewed_list_are_told(tmp_path):
    folder, reviewed = tmp_path / "clips", tmp_path / "quality.csv"
    folder.mkdir()
    (folder / "a.mp4").write_text("a")
    reviewed.write_text("clip_id,keep\n")
    steps, maker = made(tmp_path / "out", clips=str(folder), quality=str(reviewed))
    tuning = dataclasses.replace(steps["train demo_tune_96p_4s"])
    before = [maker.key(steps["curate"]), maker.key(tuning)]
    (folder / "b.mp4").write_text("b")
    reviewed.write_text("clip_id,keep\na,yes\n")
    now = [maker.key(steps["curate"]), maker.key(tuning)]
    assert differences(before[0], now[0]) == ["the clips' files changed (files: 1 before, 2 now)"]
    assert differences(before[1], now[1]) == ["the reviewed list of clips changed"]


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (("--filter.min-motion", "p25"), ("--filter.min-motion", "0.3"), "--filter.min-motion was p25 and is 0.3"),
        ((), ("--a", "1", "2"), "--a is new (1 2)"),
        (("--serve-shorter",), (), "--serve-shorter is gone (it was set)"),
    ],
)
def test_a_changed_flag_is_told(tmp_path, before, now, told):
    step = WorkflowStep("curate", "curate", before, tmp_path / "curated")
    changed = dataclasses.replace(step, flags=now)
    found = [KeyMaker(tmp_path, [s], None, None).key(s) for s in (step, changed)]
    assert differences(*found) == [told]


def test_secrets_are_not_in_a_key(tmp_path):
    steps, maker = made(tmp_path, clips="s3://me:secret@bucket/clips.csv")
    assert "secret" not in str(maker.key(steps["curate"]))


def test_a_key_of_an_older_version_counts_as_long_as_flags_inputs_and_clips_are_the_same(tmp_path):
    steps, maker = made(tmp_path)
    curate = steps["curate"]
    OutputFolder.open(steps["clips"].output, "demo_clips", {}, {}).publish({})
    flags = [flag.replace(f"{tmp_path}/", "{output}/") for flag in curate.flags]
    inputs = [digest(OutputFolder.open(steps["clips"].output, "demo_clips", {}, {}).key)]
    old = digest({"flags": flags, "inputs": inputs, "clips": None})
    assert maker.is_made_by(old, curate)
    assert not maker.is_made_by(old, dataclasses.replace(curate, flags=(*curate.flags, "--quality.count", "1")))
    assert differences(old, maker.key(curate)) == [
        "an older version of the workflow made it, with other flags or inputs"
    ]


def test_a_file_of_either_version_is_read(tmp_path):
    steps, maker = made(tmp_path)
    path = tmp_path / "pipeline.json"
    assert read_keys(path) == {}
    path.write_text(json.dumps({"curate": "0123", "clips": maker.key(steps["clips"])}))
    assert read_keys(path) == {"curate": "0123", "clips": maker.key(steps["clips"])}
