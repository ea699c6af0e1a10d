"""A run's files: lines that were not sent, and a state that survives a restart."""

import dataclasses
import json

from pipelines.tracking.files import RunFiles, RunState, SentLines, read_state

STATE = RunState(experiment="exp", name="stage", params={"lr": "0.1"}, tags={})


def test_lines_are_taken_from_the_first_that_was_not_sent(tmp_path):
    lines = SentLines(tmp_path / "m.jsonl", sent=0)
    for step in range(5):
        lines.append({"step": step})
    assert [line["step"] for line in lines.unsent(3)] == [0, 1, 2]
    assert [line["step"] for line in lines.unsent(3)] == [0, 1, 2], "not marked as sent"
    assert lines.mark_sent(2) == 2
    assert [line["step"] for line in lines.unsent(9)] == [2, 3, 4]
    again = SentLines(tmp_path / "m.jsonl", sent=4)
    assert again.last == {"step": 4}
    assert [line["step"] for line in again.unsent(9)] == [4]


def test_a_line_that_is_being_written_waits_and_one_cut_off_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = SentLines(path, sent=0)
    lines.append({"step": 1})
    with open(path, "a") as f:
        f.write('{"step": 2, "ti')
    assert lines.unsent(9) == [{"step": 1}]
    again = SentLines(path, sent=1)
    again.append({"step": 2})
    assert again.unsent(9) == [{"step": 2}]


def test_a_restart_keeps_what_was_recorded_and_runs_again(tmp_path):
    assert read_state(tmp_path) is None
    first = RunFiles(tmp_path, STATE)
    first.update(run_id="abc", params_sent=True, ended="KILLED")
    assert not first.resumed
    again = RunFiles(tmp_path, dataclasses.replace(STATE, params={"lr": "0.2"}))
    assert (again.state.run_id, again.state.params, again.state.ended) == ("abc", {"lr": "0.1"}, None)
    assert not again.resumed, "MLflow does not know that it had ended"
    again.update(ended="FINISHED", seen="FINISHED")
    assert RunFiles(tmp_path, STATE).resumed


def test_the_state_is_these_keys_in_run_json(tmp_path):
    """Folders of earlier versions are continued."""
    RunFiles(tmp_path, STATE)
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "run_id": None,
        "experiment": "exp",
        "name": "stage",
        "params": {"lr": "0.1"},
        "tags": {},
        "datasets": [],
        "params_sent": False,
        "lines_sent": 0,
        "artifacts_sent": 0,
        "ended": None,
        "seen": None,
    }
