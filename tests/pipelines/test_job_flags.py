"""Flags of jobs on the workflow's command line: taken apart, put into commands, refused before work."""

import dataclasses

import pytest

from data_prep.curate.config import CurateConfig
from lingen.train.config import FitConfig
from pipelines import cli
from pipelines.job_flags import check_flags, gather, read_flags, with_flags
from pipelines.recipes import RECIPES
from pipelines.training.config import TrainConfig


def test_flags_of_jobs_are_gathered_from_anywhere_and_the_workflows_own_stay():
    words = ["run", "--curate.license.assume", "CC0-1.0", "--output", "out/a.b", "--train-tae.fit.steps=5"]
    flags = "--flags=--curate.license.assume CC0-1.0 --train-tae.fit.steps=5"
    assert gather(words) == ["run", "--output", "out/a.b", flags]
    assert gather(["plan", "--quality=a.csv"]) == ["plan", "--quality=a.csv"]
    assert gather(["run", "--curat.x", "1"]) == ["run", "--curat.x", "1"], "for the parser to refuse"


@pytest.mark.parametrize("form", [lambda text: [f"--flags={text}"], lambda text: ["--flags", text]])
def test_a_text_of_flags_is_taken_apart_like_a_shell_does(form):
    text = """--generate.prompt 'a red ball' --quality "my list.csv" --encode.text a b"""
    *rest, flags = gather(["run", *form(text), "--clips", "x"])
    assert rest == ["run", "--quality", "my list.csv", "--clips", "x"]
    assert read_flags(flags.removeprefix("--flags=")) == {
        "generate": ("--prompt", "a red ball"),
        "encode": ("--text", "a", "b"),
    }


def test_an_open_quote_and_a_missing_text_are_refused():
    (kept,) = gather(["--flags=--generate.prompt 'a red ball"])
    with pytest.raises(ValueError, match=r"--flags: a quote in .* is not closed"):
        read_flags(kept.removeprefix("--flags="))
    assert gather(["run", "--flags"]) == ["run", "--flags"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("--license.assume CC0-1.0", "--flags: --license.assume is no flag of a job; write --JOB.FLAG VALUE, with JOB"),
        ("CC0-1.0", "--flags: CC0-1.0 is no flag of a job"),
        ("--curate.input x", "--curate.input: the workflow sets it; .* run jobs/curate.py alone"),
        ("--train_tae.output=x", "--train-tae.output: the workflow sets it"),
        ("--curate.what_if", "--curate.what-if: the workflow sets it"),
        ("--encode.stages a b", "--encode.stages: the workflow sets it"),
    ],
)
def test_what_is_no_flag_of_a_job_or_set_by_the_workflow_is_refused(text, named):
    with pytest.raises(ValueError, match=named):
        read_flags(text)


def test_flags_of_the_same_name_are_replaced_with_all_their_values():
    recipe = ("--input", "x", "--stages", "a", "b", "--serve-shorter", "--filter.min-side", "96")
    assert with_flags(recipe, ("--stages", "c", "--filter.min_side=0")) == (
        *("--input", "x", "--serve-shorter"),
        *("--stages", "c", "--filter.min_side=0"),
    )
    assert with_flags(recipe, ()) == recipe


SETTINGS = {"curate": CurateConfig, "train": TrainConfig}
CURATE = ("curate", ("--input", "x", "--output", "y"))
STAGE = RECIPES["demo"].stages[1]
TRAIN = ("train", ("--stage", STAGE.name, "--shards", "x", "--output", "y"))


def check(flags, *commands):
    check_flags([(job, with_flags(command, flags.get(job, ()))) for job, command in commands], flags, SETTINGS.get)


def test_good_flags_pass_and_nothing_is_parsed_without_flags():
    check({"curate": ("--license.assume", "CC0-1.0"), "train": ("--fit.lr", "1e-4")}, CURATE, TRAIN)
    check({"curate": ("--filter.min-side", "0")}, CURATE, ("encode", ("--no-such-flag",)))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"curate": ("--license.asume", "CC0-1.0")}, "--curate.license.asume"),
        ({"curate": ("--license.assume", "mine")}, "--curate.license.assume: 'mine' would be dropped"),
        ({"train": ("--fit.steps", "many")}, "--train.fit.steps: "),
        ({"evaluate": ("--prompts", "3")}, r"^--evaluate\.\*: this workflow has no step that runs jobs/evaluate.py"),
    ],
)
def test_a_bad_flag_is_named_as_the_user_wrote_it(flags, named):
    with pytest.raises(ValueError, match=named):
        check(flags, CURATE, TRAIN)


def test_the_settings_of_the_stage_are_what_flags_change(monkeypatch):
    parsed = []
    monkeypatch.setattr("pipelines.job_flags.parse", lambda *args: parsed.append(cli.parse(*args)))
    check({"train": ("--fit.lr", "1e-4")}, TRAIN)
    assert parsed[0].fit == dataclasses.replace(STAGE.fit, lr=1e-4)
    assert parsed[0].fit != FitConfig(lr=1e-4)
