import pytest

from jobs.train import defaults
from pipelines.recipes import find_stage


@pytest.mark.parametrize(
    "arguments", [["--stage", "demo_t2i_64p"], ["--shards", "x", "--stage=demo_t2i_64p", "--fit.steps", "5"]]
)
def test_the_defaults_of_fit_are_those_of_the_stage(arguments):
    assert defaults(arguments) == {"fit": find_stage("demo_t2i_64p")[1].fit}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--stage", "--help"]])
def test_without_a_stage_there_are_no_defaults(arguments):
    assert defaults(arguments) == {}
