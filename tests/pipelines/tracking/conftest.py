"""Curves that a store has."""

import mlflow
import pytest


@pytest.fixture
def history(store):
    """history(run_id, key) -> [(step, value)] that the store has."""

    def read(run_id, key):
        return [(m.step, m.value) for m in mlflow.MlflowClient(store).get_metric_history(run_id, key)]

    return read
