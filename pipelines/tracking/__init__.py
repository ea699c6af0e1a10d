"""MLflow as a view of runs whose truth is in files: training never waits for it, and continues when it is away.

Metrics are appended to metrics.jsonl in the run's folder, names of files to artifacts.jsonl; a thread sends what MLflow
has not seen yet. After a restart the same MLflow run continues, and what was sent is not sent again: one curve, no
duplicate points. What MLflow missed when a job ended is sent when the same command is given again (`catch_up`).
"""

from pipelines.tracking.facts import dataset, experiment_name, flatten, git_state
from pipelines.tracking.run import Run, catch_up, log_outcome, run_id_of, tracked
from pipelines.tracking.store import create_store, store_beside

__all__ = [
    "Run",
    "catch_up",
    "create_store",
    "dataset",
    "experiment_name",
    "flatten",
    "git_state",
    "log_outcome",
    "run_id_of",
    "store_beside",
    "tracked",
]
