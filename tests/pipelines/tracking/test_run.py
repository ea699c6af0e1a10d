"""A run on a real SQLite store: restarts, an absent server, files first."""

import json

import mlflow
import numpy as np
import pytest

from pipelines import tracking


def test_a_restarted_run_is_one_curve_without_duplicates(tmp_path, store, history):
    first = tracking.Run(tmp_path / "t", "exp", "stage", uri=store, params={"lr": 0.1})
    for step in (1, 2, 3, 4):
        first.metrics(step, {"loss": 1 / step})
    first.close("KILLED")
    again = tracking.Run(tmp_path / "t", "exp", "stage", uri=store, params={"lr": 0.1})
    for step in (3, 4, 5, 6):  # training went back to its checkpoint of step 2
        again.metrics(step, {"loss": 1 / step})
    again.close()
    assert again.run_id == first.run_id
    assert history(again.run_id, "loss") == [(s, 1 / s) for s in (1, 2, 3, 4, 5, 6)]
    run = mlflow.MlflowClient(store).get_run(again.run_id)
    assert (run.info.status, run.data.params["lr"]) == ("FINISHED", "0.1")


def test_a_line_cut_off_by_a_kill_is_dropped_and_logged_again(tmp_path, store, history):
    run = tracking.Run(tmp_path / "t", "exp", "stage", uri=store)
    run.metrics(1, {"loss": 1.0})
    run.close()
    with open(tmp_path / "t" / "metrics.jsonl", "a") as f:
        f.write('{"step": 2, "ti')
    run = tracking.Run(tmp_path / "t", "exp", "stage", uri=store)
    run.metrics(2, {"loss": 0.5})
    run.close()
    assert history(run.run_id, "loss") == [(1, 1.0), (2, 0.5)]


def test_logging_continues_while_mlflow_is_away_and_nothing_is_lost(tmp_path, store, history, caplog):
    (tmp_path / "sample.txt").write_text("a sample")
    uri = "http://127.0.0.1:9"  # nobody listens there
    away = tracking.Run(tmp_path / "t", "exp", "stage", uri=uri, params={"lr": 0.1})
    for step in range(1, 4):
        away.metrics(step, {"loss": float(step)})
    away.artifact(tmp_path / "sample.txt")
    away.close(timeout_s=1)
    assert "unsent metrics stay in" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "t" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert tracking.catch_up(tmp_path / "t", store), "what the same command does when its output is finished"
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("exp").experiment_id])
    assert history(run.info.run_id, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["sample.txt"]
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})


def test_numbers_and_tags_are_what_was_given_last_and_wait_for_an_absent_server(tmp_path, store, history):
    away = tracking.Run(tmp_path / "t", "exp", "workflow", uri="http://127.0.0.1:9")
    away.numbers({"seconds": 3.0}, step=2)
    away.numbers({"seconds": 5.0})
    away.tag("clips", "s3://K:SECRET@b/m.csv")
    away.describe("first")
    away.describe("a line\n" * 5000)
    away.close(timeout_s=1)
    assert "SECRET" not in (tmp_path / "t" / "artifacts.jsonl").read_text()
    assert tracking.catch_up(tmp_path / "t", store)
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("exp").experiment_id])
    assert sorted(history(run.info.run_id, "seconds")) == [(0, 5.0), (2, 3.0)]
    assert run.data.tags["clips"] == "s3://***@b/m.csv"
    note = run.data.tags["mlflow.note.content"]
    assert 4900 < len(note) <= 5000
    assert set(note.splitlines()) == {"a line"}


def test_videos_are_playable_artifacts_with_a_still_grid(tmp_path, store):
    run = tracking.Run(tmp_path / "t", "exp", "stage", uri=store)
    run.video("video", 7, [np.zeros((4, 32, 48, 3), np.uint8)], fps=16)
    run.close()
    client = mlflow.MlflowClient(store)
    names = sorted(a.path for a in client.list_artifacts(run.run_id, "samples"))
    assert names == ["samples/video_00000007.png", "samples/video_00000007_0.mp4"]


def test_a_failing_block_ends_the_run_as_failed(tmp_path, store):
    with pytest.raises(RuntimeError, match="boom"), tracking.tracked(tmp_path / "t", "exp", "job", uri=store) as run:
        raise RuntimeError("boom")
    assert mlflow.MlflowClient(store).get_run(run.run_id).info.status == "FAILED"


def test_children_name_their_parent(tmp_path, store):
    with tracking.tracked(tmp_path / "p", "exp", "recipe", uri=store) as parent:
        parent.wait_for_id()
        with tracking.tracked(tmp_path / "c", "exp", "stage", uri=store, parent=parent.run_id) as child:
            pass
    assert mlflow.MlflowClient(store).get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_a_model_is_registered_once_and_its_alias_moves_to_the_next(tmp_path, store):
    client = mlflow.MlflowClient(store)
    for attempt in ("first", "second"):
        run = tracking.Run(tmp_path / attempt, "exp", "stage", uri=store)
        run.model("lingen-demo", tmp_path / attempt / "model", alias="t2v_1s")
        run.model("lingen-demo", tmp_path / attempt / "model", alias="t2v_1s")  # as after a kill before it was noted
        run.close()
        version = client.get_model_version_by_alias("lingen-demo", "t2v_1s")
        assert (version.run_id, version.source) == (run.run_id, str(tmp_path / attempt / "model"))
    assert len(client.search_model_versions("name='lingen-demo'")) == 2


def test_the_registry_entry_waits_for_an_absent_server_and_a_refusal_stops_nothing(tmp_path, store, caplog):
    away = tracking.Run(tmp_path / "t", "exp", "stage", uri="http://127.0.0.1:9")
    away.model("lingen-demo", tmp_path / "model", alias="v1")  # v1 is no alias: this one will be refused
    away.model("lingen-demo", tmp_path / "model", alias="t2i")
    away.close(timeout_s=1)
    assert tracking.catch_up(tmp_path / "t", store)
    assert "refuses" in caplog.text
    assert "lingen-demo@v1" in caplog.text
    assert mlflow.MlflowClient(store).get_model_version_by_alias("lingen-demo", "t2i").source == str(tmp_path / "model")


def test_an_outcome_is_logged_once_however_often_the_job_is_run(tmp_path, store, history, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    (tmp_path / "report.html").write_text("kept: 3")
    for kept in (3, 4):
        report = [tmp_path / "report.html"]
        data = [tracking.dataset("clips", "clips.csv", "abc", "source", {"clips": 5})]
        tracking.log_outcome(tmp_path / "curated", "curate", {"min_s": 1.0}, {"kept": kept}, report, data)
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("curate").experiment_id])
    assert run.info.run_name == "curated"
    assert history(run.info.run_id, "kept") == [(0, 3.0)]
    (made,) = run.inputs.dataset_inputs
    assert (made.dataset.name, made.dataset.digest) == ("clips", "abc")


def test_secrets_reach_neither_mlflow_nor_the_runs_files(tmp_path, store):
    uri = "s3://K:SECRET@b/m.csv?token=SECRET"
    data = tracking.dataset(uri, uri, "abc", "source")
    long = "x" * 490 + " s3://K:SECRET@b"  # cut before its end
    params = {"input": uri, "long": long}
    run = tracking.Run(tmp_path / "t", "exp", "stage", uri=store, params=params, tags={"source": uri}, datasets=[data])
    run.close()
    logged = mlflow.MlflowClient(store).get_run(run.run_id)
    assert logged.data.params["input"] == logged.data.tags["source"] == "s3://***@b/m.csv?token=***"
    assert logged.inputs.dataset_inputs[0].dataset.name == "s3://***@b/m.csv?token=***"
    assert "SECRET" not in str(logged.to_dictionary())
    assert "SECRET" not in (tmp_path / "t" / "run.json").read_text()
