"""What the workflow's own run shows in MLflow: how long each step took, what every stage changed, and what was learnt.

The numbers are metrics. The tables are the description at the top of the run's page, and overview.md among its
artifacts, both anew after every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.demo.evaluation import EVALUATION, SHEET
from lingen.io.manifest import read_json, read_manifest, write_atomic
from lingen.io.progress import clock
from pipelines.tracking import Run

FILE = "overview.md"
CHANGES = ("positions (TxHxW)", "loss", "val/loss")
"""names of what `changes` returns"""
STAGE_COLUMNS = ("stage", "steps", *CHANGES, "took")

Row = tuple[object, ...]
Evaluation = Mapping[str, Mapping[str, Mapping[str, float]]]
"""stage -> group of prompts -> score -> its value; of the scores, prompts is a number of prompts"""


def changes(outputs: dict[str, Any]) -> list[str]:
    """What a finished stage changed, from its manifest's outputs, as texts in the order of CHANGES."""
    sizes = [outputs["positions"][when] for when in ("before", "after")]
    before, after = (s and "x".join(map(str, s)) for s in sizes)
    falls = (outputs["loss"].get(name) for name in CHANGES[1:])
    return [f"{before or 'none'} -> {after}", *("none" if f is None else f"{f[0]:.3f} -> {f[1]:.3f}" for f in falls)]


def stage_rows(folders: Sequence[Path]) -> list[Row]:
    """A row of STAGE_COLUMNS for every output folder of jobs/train.py that is finished: positions grow, losses fall."""
    rows: list[Row] = []
    for folder in folders:
        manifest = read_manifest(folder)
        if manifest and "positions" in manifest["outputs"]:
            outputs = manifest["outputs"]
            rows.append((folder.name, outputs.get("steps", ""), *changes(outputs), clock(manifest.get("seconds", 0.0))))
    return rows


def read_evaluation(folder: Path) -> tuple[Evaluation, Mapping[str, float]]:
    """(scores, what guessing would score) from an output folder of jobs/evaluate.py; none without evaluation.json."""
    path = folder / EVALUATION
    found = read_json(path) if path.is_file() else {"stages": {}, "chance": {}}
    return found["stages"], found["chance"]


def log_step(run: Run, name: str, seconds: float) -> None:
    """Log how long a step took."""
    run.numbers({f"seconds/{name.replace(' ', '_')}": seconds})


def followed(groups: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The scores of one model's groups of prompts, under their names in MLflow."""
    return {f"followed/{group}/{name}": share for group in groups for name, share in groups[group].items()}


def log_scores(run: Run, folder: Path, stages: Sequence[str]) -> None:
    """Log the scores of prompts under the job's own names.

    Args:
        folder: output folder of jobs/evaluate.py.
        stages: names of the stages in order; the number of a stage, from 1, is the step of its scores.
    """
    for stage, groups in read_evaluation(folder)[0].items():
        run.numbers(followed(groups), step=stages.index(stage) + 1)


def log_sheet(run: Run, folder: Path) -> None:
    """Log the files of an output folder of jobs/evaluate.py."""
    for name in (EVALUATION, SHEET):
        if (folder / name).is_file():
            run.artifact(folder / name)


def log_tables(run: Run, title: str, took: Sequence[Row], folders: Sequence[Path], evaluated: Sequence[Path]) -> None:
    """Write the tables anew, as an artifact and as the run's description.

    Args:
        title: what the workflow is made of, in Markdown.
        took: (step, how long it took), of the steps so far.
        folders: output folders of the stages, in order.
        evaluated: output folders of jobs/evaluate.py; of a stage that is in several, the last one's scores are shown.
    """
    parts = [title, markdown(("step", "took"), took)]
    if rows := stage_rows(folders):
        parts.append(markdown(STAGE_COLUMNS, rows))
    found = [read_evaluation(folder) for folder in evaluated]
    if scores := {stage: groups for stages, _ in found for stage, groups in stages.items()}:
        header, *cells = score_rows(scores, found[-1][1])
        parts.append(f"Prompts followed (what was generated for them: {SHEET} under Artifacts):")
        parts.append(markdown(header, cells))
    text = "\n\n".join(parts) + "\n"
    write_atomic(run.folder / FILE, text)
    run.artifact(run.folder / FILE)
    run.describe(text)


def markdown(header: Sequence[object], rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def score_rows(evaluation: Evaluation, chance: Mapping[str, float]) -> list[Row]:
    """Rows of a table whose first is its header: the shares of every stage's groups of prompts, in percent."""
    groups = {(stage, group): scores for stage, found in evaluation.items() for group, scores in found.items()}
    others = [name for name in next(iter(groups.values()), {}) if name not in (*chance, "prompts")]
    names = [*chance, *others]
    rows = [
        (stage, f"{scores['prompts']} {group.replace('_', ' ')}", *(f"{scores[name]:.0%}" for name in names))
        for (stage, group), scores in groups.items()
    ]
    guessing = ("guessing", "", *(f"{chance[name]:.0%}" if name in chance else "" for name in names))
    return [("stage", "prompts", *names), *rows, guessing]
