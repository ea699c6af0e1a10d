"""How far a workflow is: the state of every step, its progress, and its run in MLflow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from lingen.io.manifest import read_claim
from lingen.io.redact import redact
from pipelines.tracking import run_id_of, store_beside
from pipelines.workflow.run import Workflow
from pipelines.workflow.running import counted, running_steps
from pipelines.workflow.steps import WorkflowStep

LOCAL_SERVER = "http://127.0.0.1:5000"
"""where `mlflow ui` shows a store that has no server"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepStatus:
    """A step as it is now."""

    step: str
    state: str
    """running, done, started, stale or missing"""
    done: int | None
    """units of work that are done; None where the job does not count any"""
    total: int | None
    unit: str | None
    progress: str
    """the job's own progress line"""
    output: str
    mlflow: str | None
    """the page of its run"""

    @property
    def short(self) -> str:
        """The progress in a few words."""
        return f"{self.unit} {self.done} of {self.total}" if self.total else ""


def statuses(workflow: Workflow) -> list[StepStatus]:
    """The status of every step, from what is in the workflow's folder now."""
    workflow.refresh()
    running, states = running_steps(workflow.output), workflow.states()
    return [_status(workflow, step, states[step.name], running.get(step.name)) for step in workflow.steps]


def as_json(workflow: Workflow, found: Sequence[StepStatus], indent: int | None = None) -> str:
    """Statuses as one JSON object."""
    about = {"recipe": workflow.recipe, "output": str(workflow.output)}
    return json.dumps(about | {"steps": [dataclasses.asdict(status) for status in found]}, indent=indent)


def _status(workflow: Workflow, step: WorkflowStep, state: str, progress: str | None) -> StepStatus:
    state = state if progress is None else "running"
    trained = _trained_steps(step.output) if state in ("running", "started") else None
    done, total, unit = trained or counted(progress or "") or (None, None, None)
    return StepStatus(
        step=step.name,
        state=state,
        done=done,
        total=total,
        unit=unit,
        progress=progress or "",
        output=str(step.output),
        mlflow=_page(workflow, step),
    )


def _trained_steps(output: Path) -> tuple[int, int, str] | None:
    """Steps of an unfinished training, done and in all, from its metrics and its settings."""
    claim = read_claim(output)
    total = claim and claim["config"].get("fit", {}).get("steps")
    path = output / "tracking" / "metrics.jsonl"
    if not isinstance(total, int) or not path.is_file():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 14)))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"]), total, "step"
        except (ValueError, KeyError, TypeError):
            continue  # being written
    return None


def _page(workflow: Workflow, step: WorkflowStep) -> str | None:
    """The address of a step's run; of a store without a server, where `mlflow ui` would show it."""
    run_id = run_id_of(step.output / "tracking")
    if run_id is None:
        return None
    store = store_beside(workflow.output / "tracking")
    server = redact(store).rstrip("/") if store.startswith("http") else LOCAL_SERVER
    return f"{server}/#/runs/{run_id}"
