"""Run all jobs from clips to a generated video: python jobs/pipeline.py run|status|plan|explain|rerun --output DIR"""

from __future__ import annotations

import csv
import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from data_prep.sources.manifest import MEDIA_SUFFIXES
from lingen.io.exit_codes import BAD_CONFIGURATION
from lingen.io.progress import clock
from lingen.io.redact import redact
from pipelines import cli, job_flags
from pipelines.overview import SHEET, STAGE_COLUMNS, stage_rows
from pipelines.plan.config import PlanConfig
from pipelines.plan.report import make_plan, refuse, report
from pipelines.plan.stages import planned_stages
from pipelines.recipes import find_recipe
from pipelines.tracking import store_beside
from pipelines.workflow import StepFailed, Workflow
from pipelines.workflow.status import LOCAL_SERVER, StepStatus, as_json, statuses

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ACTIONS = ("run", "status", "plan", "explain", "rerun")
WATCH_EVERY = 2.0
"""seconds between two looks at the workflow's folder"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Run a recipe's jobs (run), show how far they are (status), or print the commands (plan).

    Of one step: explain STEP says whether it will run and what changed since it did; rerun STEP makes it, and all that
    reads from it, again.

    Any flag of a job, after the job's name: --curate.license.assume CC0-1.0, --train-tae.fit.steps 500,
    --encode.text ViT-L-14,pretrained=WEIGHTS, --train.fit.lr 1e-4 (every stage), --generate.prompt "A cat".
    """

    action: Annotated[str, tyro.conf.Positional]
    """run, status, plan, explain or rerun."""
    step: Annotated[str | None, tyro.conf.Positional] = None
    """The step's name, for explain and rerun, such as "encode 64p"."""
    recipe: str = "demo"
    """demo (minutes on two CPU cores) or paper (LinGen's five stages and its quality tuning)."""
    output: Path = Path("out/demo")
    """Folder for all outputs."""
    clips: str | None = None
    """Your clips: a folder or a manifest (CSV, Parquet, JSONL); default: the demo's clips."""
    quality: str | None = None
    """Reviewed list that quality tuning trains on; default: curation's unreviewed proposal, curated/quality.csv."""
    jobs: int = 2
    """How many steps may run at a time, where none reads what another one makes."""
    json: bool = False
    """Print the status as JSON; with --watch one line after every change."""
    watch: bool = False
    """Print the status anew after every change, until the workflow ends."""
    plan: Annotated[PlanConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=PlanConfig)
    flags: str = ""
    """The same flags of jobs in one text, with quotes as in a shell."""

    def __post_init__(self):
        if self.action not in ACTIONS:
            raise ValueError(f"action: {self.action!r} is unknown; use {', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}")
        if self.step is not None and self.action not in ("explain", "rerun"):
            raise ValueError(f"step: {self.action} is of all steps; leave out {self.step!r}, or use explain or rerun")
        if self.jobs < 1:
            raise ValueError(f"--jobs: need at least one at a time, got {self.jobs}")
        if (self.json or self.watch) and self.action != "status":
            raise ValueError(f"--{'json' if self.json else 'watch'}: only the action status has it")


def main(config: PipelineConfig) -> None:
    """Do what the action says; exits with the code of a job that fails."""
    if config.action == "plan" and config.plan.gpu is not None and config.clips is None and config.recipe != "demo":
        print("with --clips the jobs' commands are printed too")
        show_plan(config)
        return
    flags = job_flags.read_flags(config.flags)
    workflow = Workflow(config.recipe, config.output, config.clips, config.quality, flags, config.jobs)
    job_flags.check_flags([(step.job, step.flags) for step in workflow.steps], flags, settings_of)
    if config.action == "status":
        show_status(config, workflow)
    elif config.action == "plan":
        states = workflow.states()
        for step in workflow.steps:
            print(f"# {step.name}: {states[step.name]}\n{shlex.join(step.command)}")
        if config.plan.gpu is not None:
            show_plan(config)
    elif config.action == "explain":
        print(workflow.explain(workflow.find(config.step)))
    else:
        if config.action == "rerun":
            again = workflow.forget(workflow.find(config.step))
            print(f"made again: {', '.join(step.name for step in again)}", flush=True)
        run(config, workflow)


def run(config: PipelineConfig, workflow: Workflow) -> None:
    """Run what is not done, and show what it came to."""
    if config.recipe == "demo" and config.clips is not None:
        print(expectations(config.clips), flush=True)
    try:
        outcomes = workflow.run()
    except StepFailed as failure:
        wrong = failure.code == BAD_CONFIGURATION
        then = "its error, above, says what to change" if wrong else "run the same command again to resume"
        print(f"\n{failure}; {then}", file=sys.stderr)
        sys.exit(failure.code)
    print()
    print(cli.table([(o.step.name, o.state, clock(o.seconds)) for o in outcomes], ("step", "", "took")))
    print()
    print(cli.table(stage_rows([step.output for step in workflow.steps if step.job == "train"]), STAGE_COLUMNS))
    print(next_steps(config, workflow))


def show_plan(config: PipelineConfig) -> None:
    """Print what training comes to on the machines of --gpu.

    Raises:
        ValueError: a stage does not fit on them.
    """
    stages = planned_stages(find_recipe(config.recipe), config.plan.shards, config.plan.curated)
    plans = make_plan(stages, config.plan)
    print(f"\n{report(plans, config.plan.price)}", flush=True)
    refuse(plans)


def show_status(config: PipelineConfig, workflow: Workflow) -> None:
    """Print the status of every step: once, or after every change until the workflow ends."""
    shown, seen_running = "", False
    while True:
        found = statuses(workflow)
        indent = None if config.watch else 2
        text = as_json(workflow, found, indent) if config.json else status_table(workflow, found)
        if text != shown:
            clear = "\033[H\033[2J" if config.watch and not config.json and sys.stdout.isatty() else ""
            print(clear + text, flush=True)
            shown = text
        running = any(status.state == "running" for status in found)
        ended = all(status.state == "done" for status in found) or (seen_running and not running)
        if not config.watch or ended:
            return
        seen_running |= running
        time.sleep(WATCH_EVERY)


def status_table(workflow: Workflow, found: list[StepStatus]) -> str:
    """The statuses as a table, and how to open the pages of a store that has no server."""
    rows = [(status.step, status.state, status.short, status.output, status.mlflow or "") for status in found]
    text = cli.table(rows, ("step", "state", "progress", "output", "MLflow"))
    if any(status.mlflow and status.mlflow.startswith(LOCAL_SERVER) for status in found):
        store = shlex.quote(redact(store_beside(workflow.output / "tracking")))
        text += f"\n\nthese pages open while this runs: {sys.executable} -m mlflow ui --backend-store-uri {store}"
    return text


def settings_of(job: str) -> type[DataclassInstance] | None:
    """The settings of a job; None for one that checks its flags only when it starts."""
    if job == "demo_clips":
        from data_prep.demo.footage import DemoClipsConfig

        return DemoClipsConfig
    if job == "curate":
        from data_prep.curate.config import CurateConfig

        return CurateConfig
    if job == "train_tae":
        from pipelines.training.tae import TrainTAEConfig

        return TrainTAEConfig
    if job == "encode":
        from data_prep.encode.config import EncodeConfig

        return EncodeConfig
    if job == "train":
        from pipelines.training.config import TrainConfig

        return TrainConfig
    if job == "generate":
        from lingen.generate.pipeline import GenerateConfig

        return GenerateConfig
    if job == "evaluate":
        from data_prep.demo.evaluation import EvaluateConfig

        return EvaluateConfig
    return None


def expectations(clips: str) -> str:
    """What the demo can show on somebody's own clips."""
    count = count_clips(clips)
    named = "your clips" if count is None else f"your {count} clip{'s' * (count != 1)}"
    return (
        f"With {named} this trains a tiny model for minutes: its videos will not be recognisable. What it shows is\n"
        "that every job runs on your files. For what the model learns, see make demo without CLIPS: it trains on\n"
        "scenes made for the purpose, and scores prompts; here prompts are not scored.\n"
    )


def count_clips(clips: str) -> int | None:
    """Media files in a folder, or rows of a CSV or JSONL manifest; None where only curation can tell."""
    path = Path(clips)
    if path.is_dir():
        return sum(p.suffix.lower() in MEDIA_SUFFIXES for p in path.rglob("*"))
    if not path.is_file() or path.suffix.lower() not in (".csv", ".jsonl"):
        return None
    table = path.suffix.lower() == ".csv"
    with open(path, newline="", errors="replace") as file:
        try:
            count = sum(any(row) for row in (csv.reader(file) if table else map(str.split, file)))
        except csv.Error:
            return None
    return max(count - table, 0)


def next_steps(config: PipelineConfig, workflow: Workflow) -> str:
    """List the outputs and how to look at them, and the same commands for the user's own data."""
    out = config.output
    outputs = {step.job: step.output for step in workflow.steps}  # the last of a job's
    model, store = outputs["train"], shlex.quote(redact(store_beside(out / "curated")))
    lines = [
        "",
        f"generated video     {outputs['generate']}",
        f"curation report     {out}/curated/report.html",
        f"model               {model}/model   (lingen.load({str(model)!r}))",
        f"runs and curves     {sys.executable} -m mlflow ui --backend-store-uri {store}",
        "",
        "The same with your own clips (a folder, or a manifest with uri, caption, license, source, attribution):",
        "  make demo CLIPS=path/to/manifest.csv OUT=out/mine",
        "  make demo CLIPS=path/to/folder OUT=out/mine \\",
        "       FLAGS='--curate.license.assume CC-BY-4.0 --curate.caption.missing keep'",
        "or job by job:",
        *(f"  {shlex.join(step.command)}" for step in workflow.steps if step.job != "demo_clips"),
    ]
    if "evaluate" in outputs and (sheet := outputs["evaluate"] / SHEET).is_file():
        lines += ["", f"what was generated for prompts, beside true clips: {sheet}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.argv[1:] = job_flags.gather(sys.argv[1:])
    cli.main(PipelineConfig, main)
