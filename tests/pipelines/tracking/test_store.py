"""MLflow's store: where it is, whole or absent, and its experiments."""

import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from pipelines import tracking
from pipelines.tracking.store import experiment_id, open_client, sqlite_path, sqlite_uri


def test_a_kill_while_the_store_is_made_leaves_none_behind(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = f"import pipelines.tracking as t; t.create_store({uri!r})"
    making = subprocess.Popen([sys.executable, "-c", code])
    while making.poll() is None and not any(p.stat().st_size for p in tmp_path.rglob("mlflow.db")):
        time.sleep(0.001)
    making.kill()  # its first tables are there, its last are not
    assert making.wait() != 0
    assert not (tmp_path / "mlflow.db").exists()
    tracking.create_store(uri)
    tracking.create_store(uri)  # there: left alone
    assert mlflow.MlflowClient(uri).search_experiments()


def test_the_store_is_beside_the_output_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.store_beside(tmp_path / "out" / "curated") == f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking.store_beside(tmp_path) == "http://tracking:5000"


@pytest.mark.parametrize("name", ["plain", "a b", "a?b#c d%20", "100%", "caf\u00e9 & 'co'"])
def test_any_name_of_a_folder_may_be_above_the_store(tmp_path, monkeypatch, store, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "odd" / name
    folder.mkdir(parents=True)
    uri = tracking.store_beside(folder / "curated")
    shutil.copy(sqlite_path(store), sqlite_path(uri))  # making one anew takes seconds
    assert [p.name for p in folder.iterdir()] == ["mlflow.db"]
    (folder / "report.html").write_text("kept: 3")
    tracking.log_outcome(folder / "curated", "curate", {"a": 1}, {"kept": 3.0}, [folder / "report.html"])
    (run,) = mlflow.MlflowClient(uri).search_runs(["1"])
    assert (run.data.params, run.data.metrics, run.info.status) == ({"a": "1"}, {"kept": 3.0}, "FINISHED")
    (stored,) = (folder / "mlartifacts").rglob("report.html")
    assert stored.read_text() == "kept: 3"
    assert sorted(p.name for p in (tmp_path / "odd").iterdir()) == [name], "nothing under a cut-off name"


@pytest.mark.slow
def test_a_store_is_made_under_an_odd_name(tmp_path):
    path = tmp_path / "a?b#c d%20" / "mlflow.db"
    tracking.create_store(sqlite_uri(path))
    assert [p.name for p in path.parent.iterdir()] == ["mlflow.db"]
    assert [p.name for p in tmp_path.iterdir()] == ["a?b#c d%20"]
    with sqlite3.connect(path) as database:
        assert database.execute("select count(*) from experiments").fetchone() == (1,)


def test_the_place_of_a_store_is_that_of_its_uri():
    for path in (Path("/a b/mlflow.db"), Path("/a?b#c/100%/mlflow.db"), Path("mlflow.db")):
        assert sqlite_path(sqlite_uri(path)) == path
    assert sqlite_path("http://tracking:5000") is None
    assert sqlite_path("postgresql://me@host/db") is None


def test_an_experiment_is_created_once_with_its_artifacts_beside_the_database(tmp_path, store):
    client = open_client(store)
    made = experiment_id(client, "lingen-demo", store)
    assert experiment_id(client, "lingen-demo", store) == made
    location = client.get_experiment(made).artifact_location
    assert location == (tmp_path / "mlartifacts" / "lingen-demo").as_uri()


def test_an_experiment_that_another_job_created_in_between_is_used(store, monkeypatch):
    client = open_client(store)
    made = experiment_id(client, "lingen-demo", store)
    find, looks = client.get_experiment_by_name, iter([None])
    monkeypatch.setattr(client, "get_experiment_by_name", lambda name: next(looks, find(name)))
    assert experiment_id(client, "lingen-demo", store) == made
