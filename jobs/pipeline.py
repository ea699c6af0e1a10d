"""Run all jobs from clips to a generated video: python jobs/pipeline.py run|status|plan --recipe demo --output DIR"""

from __future__ import annotations

import csv
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from data_prep.sources.manifest import MEDIA_SUFFIXES
from lingen.io.exit_codes import BAD_CONFIGURATION
from lingen.io.progress import clock
from lingen.io.redact import redact
from pipelines import cli, job_flags
from pipelines.overview import SHEET, STAGE_COLUMNS, stage_rows
from pipelines.tracking import store_beside
from pipelines.workflow import StepFailed, Workflow

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Run a recipe's jobs in order (run), show their progress (status), or print the commands (plan).

    Any flag of a job, after the job's name: --curate.license.assume CC0-1.0, --train-tae.fit.steps 500,
    --encode.text ViT-L-14,pretrained=WEIGHTS, --train.fit.lr 1e-4 (every stage), --generate.prompt "A cat".
    """

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
    flags: str = ""
    """The same flags of jobs in one text, with quotes as in a shell."""

    def __post_init__(self):
        if self.action not in ("run", "status", "plan"):
            raise ValueError(f"action: {self.action!r} is unknown; use run, status or plan")


def main(config: PipelineConfig) -> None:
    """Do what the action says; exits with the code of a job that fails."""
    flags = job_flags.read_flags(config.flags)
    workflow = Workflow(config.recipe, config.output, config.clips, config.quality, flags)
    job_flags.check_flags([(step.job, step.flags) for step in workflow.steps], flags, settings_of)
    if config.action == "status":
        rows = [(step.name, workflow.state(step), str(step.output)) for step in workflow.steps]
        print(cli.table(rows, ("step", "state", "output")))
        return
    if config.action == "plan":
        for step in workflow.steps:
            print(f"# {step.name}: {workflow.state(step)}\n{shlex.join(step.command)}")
        return
    if config.recipe == "demo" and config.clips is not None:
        print(expectations(config.clips))
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


def settings_of(job: str) -> type[DataclassInstance] | None:
    """The settings of a job; None for one that checks its flags only when it starts."""
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
