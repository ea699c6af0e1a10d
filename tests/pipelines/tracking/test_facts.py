"""What a run records about itself."""

import json
import subprocess

from pipelines import tracking


def test_nested_settings_become_dotted_parameters():
    assert tracking.flatten({"fit": {"lr": 1, "a": {"b": 2}}, "x": 3}) == {"fit.lr": 1, "fit.a.b": 2, "x": 3}


def test_the_workflow_names_the_experiment_of_its_jobs(monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert tracking.experiment_name("lingen-encode") == "lingen-encode"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lingen-demo")
    assert tracking.experiment_name("lingen-encode") == "lingen-demo"


def test_the_commit_is_recorded_and_whether_it_is_all(tmp_path):
    assert tracking.git_state(tmp_path) == {}, "not a checkout"
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    state = tracking.git_state(tmp_path)
    assert len(state["mlflow.source.git.commit"]) == 40
    assert state["git.dirty"] == "false"
    (tmp_path / "new.py").touch()
    assert tracking.git_state(tmp_path)["git.dirty"] == "true"


def test_a_dataset_names_its_source_and_numbers_as_json():
    made = tracking.dataset("latents", "out/latents", "abc", "training", {"samples": 5})
    assert json.loads(made["source"]) == {"uri": "out/latents"}
    assert json.loads(made["profile"]) == {"samples": 5}
    assert (made["name"], made["digest"], made["context"]) == ("latents", "abc", "training")
