"""MLflow's tracking store: where it is, and what the client's API leaves to its callers."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

log = logging.getLogger(__name__)


def store_beside(output: str | Path) -> str:
    """The default store's URI: MLFLOW_TRACKING_URI, else mlflow.db in the folder that holds the output folder."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return sqlite_uri(Path(output).resolve().parent / "mlflow.db")


def sqlite_uri(path: Path) -> str:
    """The URI of an SQLite store; what would end the path in a URI, such as ?, is escaped."""
    from sqlalchemy.engine import URL, make_url

    uri = f"sqlite:///{path}"
    if make_url(uri).database == str(path):
        return uri
    # The same store; but after sqlite:/// MLflow itself makes the folders of the path, escaped as it is.
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def sqlite_path(uri: str) -> Path | None:
    """Where an SQLite store is; None for another kind of store."""
    if not uri.startswith(("sqlite:///", "sqlite+pysqlite:///")):
        return None
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    return Path(database) if database else None


def create_store(uri: str) -> None:
    """Create a missing SQLite store whole or not at all: MLflow cannot open one whose first migration was killed."""
    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        MlflowClient(sqlite_uri(Path(folder, path.name))).search_experiments()
        with contextlib.suppress(FileExistsError):  # another job was first: a link, unlike a rename, keeps its store
            os.link(f"{folder}/{path.name}", path)


def open_client(uri: str) -> MlflowClient:
    """A client of the store, which is created where it is missing. It does not retry: the caller does."""
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    create_store(uri)
    return MlflowClient(uri)


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The experiment's id, created when missing; with a local SQLite store its artifacts go beside the database."""
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    location = None
    if path := sqlite_path(uri):
        location = (path.resolve().parent / "mlartifacts" / name).as_uri()
    try:
        # The kind makes the UI open in its training view instead of the one for chat applications.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client.create_experiment(name, artifact_location=location, tags=kind)
    except Exception:
        if found := client.get_experiment_by_name(name):  # another job created it in between
            return found.experiment_id
        raise


def dataset_input(context: str, **fields: str) -> DatasetInput:
    """A data set (pipelines.tracking.dataset) as the client takes it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(Dataset(source_type="local", **fields), [InputTag("mlflow.data.context", context)])


def register(client: MlflowClient, uri: str, run_id: str, model: str, location: str, alias: str) -> None:
    """Add a version of a registered model and point the alias to it; calling it twice changes nothing.

    A server accepts no path of ours as a source: there the source is the run's folder `model`, and the tag `location`
    has the weights' path. A refusal by the registry is reported, not raised.
    """
    from mlflow.exceptions import MlflowException

    source = f"runs:/{run_id}/model" if uri.startswith("http") else location
    try:
        with contextlib.suppress(MlflowException):  # it exists
            client.create_registered_model(model)
        same = [v for v in client.search_model_versions(f"name='{model}'") if v.run_id == run_id]
        version = same[0] if same else client.create_model_version(model, source, run_id, {"location": location})
        client.set_registered_model_alias(model, alias, version.version)
    except MlflowException as error:
        if error.get_http_status_code() not in range(400, 500):
            raise  # the server is away: retried later
        log.warning("MLflow's registry refuses %s as %s@%s: %s", location, model, alias, error)
