"""The workflow's own run in MLflow: tables, numbers, and scores of prompts."""

import json

import mlflow
import pytest

from lingen.io.manifest import OutputFolder
from pipelines import tracking
from pipelines.overview import changes, log_scores, log_sheet, log_step, log_tables, markdown, stage_rows

STAGES = ["t2i", "t2v"]
EVALUATION = {
    "stages": {
        "t2i": {
            "trained": {"color": 0.5, "all": 0.25, "prompts": 32},
            "held_out": {"color": 0.25, "all": 0, "prompts": 16},
        },
        "t2v": {
            "trained": {"color": 1.0, "all": 0.75, "prompts": 32},
            "held_out": {"color": 0.5, "all": 0, "prompts": 16},
        },
    },
    "chance": {"color": 0.1},
}


@pytest.fixture
def stages(tmp_path):
    """Output folders of two stages, of which one is finished."""
    outputs = {
        "positions": {"before": None, "after": [1, 8, 8]},
        "loss": {"loss": [2.0, 1.5], "val/loss": [1.9, 1.6]},
        "steps": 30,
    }
    OutputFolder.open(tmp_path / "t2i", "train", {}, {}).publish(outputs)
    return [tmp_path / name for name in STAGES]


def test_changes_are_from_the_first_to_the_last():
    positions = {"after": [4, 6, 7], "before": [2, 4, 5]}
    assert changes({"loss": {"loss": [1.9375, 1.0375], "val/loss": [2.0, 1.25]}, "positions": positions}) == [
        "2x4x5 -> 4x6x7",
        "1.938 -> 1.038",
        "2.000 -> 1.250",
    ]
    first = {"loss": {}, "positions": {"before": None, "after": [2, 4, 5]}}
    assert changes(first) == ["none -> 2x4x5", "none", "none"]


def test_a_finished_stage_is_a_row(stages):
    assert stage_rows(stages) == [("t2i", 30, "none -> 1x8x8", "2.000 -> 1.500", "1.900 -> 1.600", "0s")]


def test_a_bar_in_a_cell_is_no_column():
    assert markdown(("a", "b"), [("x|y", 1)]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"


def test_the_run_has_tables_numbers_and_the_sheet(tmp_path, store, stages):
    evaluated = tmp_path / "evaluation"
    evaluated.mkdir()
    (evaluated / "evaluation.json").write_text(json.dumps(EVALUATION))
    (evaluated / "sheet.png").write_bytes(b"png")
    with tracking.tracked(tmp_path / "t", "exp", "workflow", uri=store) as run:
        log_step(run, "train TAE", 12.5)
        log_tables(run, "Recipe demo.", [("train TAE", "12s")], stages, [])
        log_step(run, "train TAE", 13.5)
        log_scores(run, evaluated, STAGES)
        log_sheet(run, evaluated)
        log_tables(run, "Recipe demo.", [("train TAE", "13s")], stages, [evaluated])
    client = mlflow.MlflowClient(store)
    logged = client.get_run(run.run_id)
    note = logged.data.tags["mlflow.note.content"]
    assert note == (tmp_path / "t" / "overview.md").read_text()
    assert note.startswith("Recipe demo.\n\n| step | took |\n| --- | --- |\n| train TAE | 13s |\n\n| stage | steps |")
    assert "| t2i | 30 | none -> 1x8x8 | 2.000 -> 1.500 | 1.900 -> 1.600 | 0s |" in note
    assert note.endswith(
        "| stage | prompts | color | all |\n| --- | --- | --- | --- |\n"
        "| t2i | 32 trained | 50% | 25% |\n| t2i | 16 held out | 25% | 0% |\n"
        "| t2v | 32 trained | 100% | 75% |\n| t2v | 16 held out | 50% | 0% |\n"
        "| guessing |  | 10% |  |\n"
    )
    assert logged.data.metrics["seconds/train_TAE"] == 13.5
    followed = client.get_metric_history(run.run_id, "followed/trained/color")
    assert sorted((m.step, m.value) for m in followed) == [(1, 0.5), (2, 1.0)]
    names = {a.path for a in client.list_artifacts(run.run_id)}
    assert names == {"evaluation.json", "overview.md", "sheet.png"}
