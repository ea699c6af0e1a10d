"""The sender: requests no larger than MLflow takes, nothing twice, and again after an error."""

import pytest

from pipelines.tracking import sender
from pipelines.tracking.files import RunFiles, RunState


class Client:
    """Takes what MLflow takes; away for its first calls of log_batch."""

    def __init__(self, away=0):
        self.away, self.params, self.metrics, self.ended = away, [], [], []

    def get_experiment_by_name(self, name):
        return type("Experiment", (), {"experiment_id": "1"})

    def create_run(self, experiment, run_name, tags):
        info = type("Info", (), {"run_id": "abc"})
        return type("Run", (), {"info": info})

    def log_batch(self, run_id, metrics=(), params=()):
        if self.away:
            self.away -= 1
            raise ConnectionError("refused")
        assert len(metrics) <= 1000
        assert len(params) <= 100
        self.metrics.append([(m.step, m.key) for m in metrics])
        self.params.append([p.key for p in params])

    def set_terminated(self, run_id, status):
        self.ended.append(status)


@pytest.fixture
def send(tmp_path, monkeypatch):
    """send(client, params, steps, names) -> the files of a run whose metrics were sent before it was closed."""

    def run(client, params=1, steps=1, names=1):
        monkeypatch.setattr(sender, "open_client", lambda uri: client)
        monkeypatch.setattr(sender, "SEND_EVERY_S", 0.01)
        settings = {f"p{i}": "x" for i in range(params)}
        files = RunFiles(tmp_path, RunState(experiment="exp", name="stage", params=settings, tags={}))
        for step in range(steps):
            metrics = {f"m{i}": 1.0 for i in range(names)}
            files.metrics.append({"step": step, "time_ms": 0, "metrics": metrics})
        sending = sender.Sender(files, "somewhere")
        files.update(ended="FINISHED")
        sending.close(30)
        return files

    return run


def test_requests_are_no_larger_than_mlflow_takes(send):
    client = Client()
    files = send(client, params=250, steps=700, names=3)
    assert [len(sent) for sent in client.params if sent] == [100, 100, 50]
    steps = [step for sent in client.metrics for step, key in sent if key == "m0"]
    assert steps == list(range(700)), "every step once, in order"
    assert max(map(len, client.metrics)) <= sender.METRICS_PER_REQUEST
    assert (files.state.lines_sent, files.state.seen, client.ended) == (700, "FINISHED", ["FINISHED"])


def test_one_step_with_more_metrics_than_a_request_is_sent_whole(send):
    client = Client()
    send(client, steps=2, names=sender.METRICS_PER_REQUEST + 1)
    assert [len(sent) for sent in client.metrics if sent] == 2 * [sender.METRICS_PER_REQUEST + 1]


def test_a_run_that_is_closed_while_mlflow_is_away_keeps_its_lines(send, caplog):
    files = send(Client(away=10**6))
    assert (files.state.run_id, files.state.lines_sent, files.state.seen) == ("abc", 0, None)
    assert caplog.text.count("is away (refused)") == 1
