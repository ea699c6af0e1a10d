"""Run all jobs from clips to a generated video: python jobs/pipeline.py run|status|plan --recipe demo --output DIR"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from lingen.io.manifest import require_manifest
from lingen.io.progress import clock
from lingen.io.redact import redact
from pipelines import cli
from pipelines.tracking import store_beside
from pipelines.training.reporting import CHANGES, changes
from pipelines.workflow import StepFailed, Workflow


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Run a recipe's jobs in order (run), show their progress (status), or print the commands (plan)."""

    action: Annotated[str, tyro.conf.Positional]
    """run, status or plan."""
    recipe: str = "demo"
    """demo (minutes on two CPU cores) or paper (LinGen's five stages and its quality tuning)."""
    output: Path = Path("out/demo")
    """Folder for all outputs."""
    clips: str | None = None
    """Your clips: a folder or a manifest (CSV, Parquet, JSONL); default: the demo's clips."""
    quality: str | None = None
    """Reviewed list that quality tuning trains on; default: curation's unreviewed proposal, curated/quality.csv."""

    def __post_init__(self):
        if self.action not in ("run", "status", "plan"):
            raise ValueError(f"action: {self.action!r} is unknown; use run, status or plan")


def main(config: PipelineConfig) -> None:
    """Do what the action says; exits with the code of a job that fails."""
    workflow = Workflow(config.recipe, config.output, config.clips, config.quality)
    if config.action == "status":
        rows = [(step.name, workflow.state(step), str(step.output)) for step in workflow.steps]
        print(cli.table(rows, ("step", "state", "output")))
        return
    if config.action == "plan":
        for step in workflow.steps:
            print(f"# {step.name}: {workflow.state(step)}\n{shlex.join(step.command)}")
        return
    try:
        outcomes = workflow.run()
    except StepFailed as failure:
        print(f"\n{failure}; run the same command again to resume", file=sys.stderr)
        sys.exit(failure.code)
    print()
    print(cli.table([(o.step.name, o.state, clock(o.seconds)) for o in outcomes], ("step", "", "took")))
    print()
    print(stage_table(workflow))
    print(next_steps(config, workflow))


def stage_table(workflow: Workflow) -> str:
    """A table of what each stage changed: positions grow, losses fall."""
    folders = [step.output for step in workflow.steps if step.job == "train"]
    rows = [(f.name, *changes(require_manifest(f, "train", "--output")["outputs"])) for f in folders]
    return cli.table(rows, ("stage", *CHANGES))


def next_steps(config: PipelineConfig, workflow: Workflow) -> str:
    """List the outputs and how to look at them, and the same commands for the user's own data."""
    out = config.output
    model, store = workflow.steps[-2].output, shlex.quote(redact(store_beside(out / "curated")))
    lines = [
        "",
        f"generated video     {workflow.steps[-1].output}",
        f"curation report     {out}/curated/report.html",
        f"model               {model}/model   (lingen.load({str(model)!r}))",
        f"runs and curves     {sys.executable} -m mlflow ui --backend-store-uri {store}",
        "",
        "The same with your own clips (a folder, or a manifest with uri, caption, license, source, attribution):",
        "  make demo CLIPS=path/to/manifest.csv OUT=out/mine",
        "or job by job:",
        *(f"  {shlex.join(step.command)}" for step in workflow.steps if step.job != "demo_clips"),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.main(PipelineConfig, main)
