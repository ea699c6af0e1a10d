"""The whole way from clips to a video: python jobs/pipeline.py run|status|plan --recipe demo --output DIR"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from lingen.io.manifest import read_manifest
from lingen.io.progress import clock
from pipelines import cli
from pipelines.tracking import store_beside
from pipelines.training.reporting import CHANGES, changes
from pipelines.workflow import StepFailed, Workflow


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Run a recipe's jobs in order (run), see how far it is (status), or print the commands (plan)."""

    action: Annotated[str, tyro.conf.Positional]
    """run, status or plan"""
    recipe: str = "demo"
    """demo (minutes on two CPU cores) or paper (LinGen's five stages and its quality tuning)"""
    output: Path = Path("out/demo")
    """folder for everything that is made"""
    clips: str | None = None
    """your clips: a folder or a manifest (CSV, Parquet, JSONL); default: the demo's own"""
    quality: str | None = None
    """the reviewed list that quality tuning trains on; default: curation's proposal, curated/quality.csv, unreviewed"""

    def __post_init__(self):
        if self.action not in ("run", "status", "plan"):
            raise ValueError(f"action: {self.action} is unknown; use run, status or plan")


def main(config: PipelineConfig) -> None:
    workflow = Workflow(config.recipe, config.output, config.clips, config.quality)
    if config.action == "status":
        print(
            cli.table([(s.name, workflow.state(s), str(s.output)) for s in workflow.steps], ("step", "state", "output"))
        )
        return
    if config.action == "plan":
        for step in workflow.steps:
            print(f"# {step.name}: {workflow.state(step)}\n{shlex.join(step.command)}")
        return
    try:
        outcomes = workflow.run()
    except StepFailed as failure:
        print(f"\n{failure}; the same command goes on from there", file=sys.stderr)
        sys.exit(failure.code)
    print()
    print(cli.table([(o.step.name, o.state, clock(o.seconds)) for o in outcomes], ("step", "", "took")))
    print()
    print(stage_table(workflow))
    print(closing_words(config, workflow))


def stage_table(workflow: Workflow) -> str:
    """What each stage changed: every one starts from the one before, positions grow, losses fall."""
    manifests = [(s.output.name, read_manifest(s.output)) for s in workflow.steps if s.job == "train"]
    return cli.table([(name, *changes(m["outputs"])) for name, m in manifests], ("stage", *CHANGES))


def closing_words(config: PipelineConfig, workflow: Workflow) -> str:
    """What was made, where, how to look at it, and the same commands for real data."""
    out = config.output
    model = workflow.steps[-2].output
    lines = [
        "",
        f"a generated video   {workflow.steps[-1].output}",
        f"what was kept, why  {out}/curated/report.html",
        f"the model           {model}/model   (lingen.load({str(model)!r}))",
        f"runs and curves     {sys.executable} -m mlflow ui --backend-store-uri {store_beside(out / 'curated')}",
        "",
        "The same with your clips (a folder, or a manifest with uri, caption, license, source, attribution):",
        "  make demo CLIPS=path/to/manifest.csv OUT=out/mine",
        "or job by job:",
        *(f"  {shlex.join(step.command)}" for step in workflow.steps if step.job != "demo_clips"),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.main(PipelineConfig, main)
