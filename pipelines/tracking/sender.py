"""The thread that sends a run's files to MLflow, and tries again for as long as MLflow is away."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from pipelines.tracking.files import RunFiles
from pipelines.tracking.store import dataset_input, experiment_id, open_client, register

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

SEND_EVERY_S = 10.0
"""seconds between sendings: each takes the interpreter from the training step for some tens of ms"""
METRICS_PER_REQUEST = 500
"""MLflow takes at most 1000"""
PARAMS_PER_REQUEST = 100
"""MLflow's limit"""


class Sender:
    """Sends what MLflow has not seen yet, until it is closed.

    Args:
        files: the run's files.
        uri: MLflow's tracking store.
    """

    def __init__(self, files: RunFiles, uri: str):
        self._files, self._uri = files, uri
        self._resumed = files.resumed
        self._closed = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._send_forever, name="mlflow", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Send what is left, the closing status last; gives up after `timeout_s`."""
        self._closed.set()
        self._thread.join(timeout_s)

    def _send_forever(self) -> None:
        while True:
            ended = self._files.state.ended
            try:
                self._send(ended)
                self._warned = False
            except Exception as error:
                # Whatever is wrong with the tracking server, training matters more than its curves.
                if not self._warned:
                    log.warning("MLflow at %s is away (%s); metrics wait in %s", self._uri, error, self._files.folder)
                    self._warned = True
            if ended:
                return
            self._closed.wait(SEND_EVERY_S)

    def _send(self, ended: str | None) -> None:
        client = open_client(self._uri)
        run_id = self._open_run(client)
        if not self._files.state.params_sent:
            self._send_params(client, run_id)
        self._send_metrics(client, run_id)
        self._send_artifacts(client, run_id)
        if ended:
            client.set_terminated(run_id, ended)
            self._files.update(seen=ended)

    def _open_run(self, client: MlflowClient) -> str:
        """The run's id, created at the first time; a run that had ended is running again."""
        state = self._files.state
        run_id = state.run_id
        if run_id is None:
            experiment = experiment_id(client, state.experiment, self._uri)
            run_id = client.create_run(experiment, run_name=state.name, tags=state.tags).info.run_id
            self._files.update(run_id=run_id)
        elif self._resumed:
            client.update_run(run_id, status="RUNNING")
        self._resumed = False
        return run_id

    def _send_params(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in self._files.state.params.items()]
        for first in range(0, len(params), PARAMS_PER_REQUEST):
            client.log_batch(run_id, params=params[first : first + PARAMS_PER_REQUEST])
        if datasets := self._files.state.datasets:
            client.log_inputs(run_id, [dataset_input(**fields) for fields in datasets])
        self._files.update(params_sent=True)

    def _send_metrics(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import Metric

        while lines := self._files.metrics.unsent(METRICS_PER_REQUEST):
            metrics: list[Metric] = []
            count = 0
            for entry in lines:
                if metrics and len(metrics) + len(entry["metrics"]) > METRICS_PER_REQUEST:
                    break
                metrics += [Metric(k, float(v), entry["time_ms"], entry["step"]) for k, v in entry["metrics"].items()]
                count += 1
            client.log_batch(run_id, metrics=metrics)
            self._files.update(lines_sent=self._files.metrics.mark_sent(count))

    def _send_artifacts(self, client: MlflowClient, run_id: str) -> None:
        while entries := self._files.artifacts.unsent(1):
            (entry,) = entries
            if "model" in entry:
                register(client, self._uri, run_id, **entry)
            elif "tag" in entry:
                client.set_tag(run_id, entry["tag"], entry["value"])
            elif (path := self._files.folder / entry["path"]).is_file():
                client.log_artifact(run_id, str(path), entry["folder"] or None)
            self._files.update(artifacts_sent=self._files.artifacts.mark_sent(1))
