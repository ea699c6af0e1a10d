"""Score how models follow prompts about shapes: python jobs/evaluate.py --checkpoints RUN ... --output DIR"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch

from data_prep.demo.following import CHANCE, Answer, Score, ask, by_group, choose
from data_prep.demo.sheet import draw_sheet
from lingen.data.buckets import Bucket, bucket_size
from lingen.generate.generator import Generator
from lingen.generate.sampler import SamplerConfig
from lingen.io.manifest import OutputFolder, file_digest, read_json, write_json
from lingen.io.progress import Progress
from lingen.model.pretrained import model_folder
from pipelines import cli
from pipelines.overview import EVALUATION, SHEET, followed, score_rows
from pipelines.tracking import log_outcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Ask models that were trained on the demo's scenes for colours, shapes and directions, and look what came out."""

    checkpoints: tuple[Path, ...]
    """Output folders of finished jobs/train.py, in the order in which they were trained."""
    output: Path
    """Folder for evaluation.json and the contact sheet, sheet.png (of the first and the last model)."""
    prompts: int = 48
    """Prompts for each model; a third of them are combinations that no clip shows."""
    seed: int = 0
    """Seed of the choice of prompts and of the noise."""
    sampler: SamplerConfig = dataclasses.field(default_factory=lambda: SamplerConfig(steps=12, guidance=3.0))
    """How the videos are sampled."""
    rows: int = 8
    """Prompts on the contact sheet."""
    device: str | None = None
    """cpu or cuda; default: cuda if available."""
    overwrite: bool = False
    """Replace an output folder made with other settings."""

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ValueError("--checkpoints: name at least one output folder of jobs/train.py")
        if self.prompts < 3:
            raise ValueError(f"--prompts: must be at least 3, got {self.prompts}")
        if not 1 <= self.rows <= self.prompts:
            raise ValueError(f"--rows: must be from 1 to the number of prompts, got {self.rows}")

    def content(self) -> dict[str, object]:
        """The settings that decide the result."""
        left_out = ("checkpoints", "output", "device", "overwrite")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in left_out}


def run(config: EvaluateConfig) -> None:
    """Score every model, draw the sheet, log to MLflow and print the table."""
    started = time.time()
    names = {stage_name(path): path for path in config.checkpoints}
    inputs = {
        name: file_digest(model_folder(path, "--checkpoints") / "ema.safetensors") for name, path in names.items()
    }
    folder = OutputFolder.open(config.output, "evaluate", config.content(), inputs, overwrite=config.overwrite)
    if not folder.finished:
        evaluation, answers = evaluate(config, names)
        write_json(folder.path / EVALUATION, evaluation)
        ends = list(answers)
        shown = {name: pick(answers[name], config.rows) for name in (ends[0], ends[-1])}
        draw_sheet(shown).save(folder.path / SHEET, optimize=True)
        folder.publish({name: file_digest(folder.path / name) for name in (EVALUATION, SHEET)}, started)
    evaluation = read_json(folder.path / EVALUATION)
    scores = evaluation["stages"][list(names)[-1]]
    params = {"prompts": config.prompts, "checkpoints": " ".join(names)}
    log_outcome(
        config.output, "lingen-evaluate", params, followed(scores), [folder.path / EVALUATION, folder.path / SHEET]
    )
    print(report(evaluation))
    print(f"\n{config.output / SHEET}: prompts, what the models made of them, and real clips")


def stage_name(path: Path) -> str:
    """The name of a run's folder, also for its model folder."""
    path = path.absolute()
    return path.parent.name if path.name == "model" else path.name


def evaluate(config: EvaluateConfig, checkpoints: dict[str, Path]) -> tuple[dict[str, object], dict[str, list[Answer]]]:
    """Score every model. Returns the content of evaluation.json, and each model's answers."""
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    combinations = choose(config.prompts, config.seed)
    progress = Progress("evaluate", len(combinations) * len(checkpoints), unit="videos")
    stages, answers = {}, {}
    for name, path in checkpoints.items():
        generator = Generator(path, device=device)
        size = (Bucket.parse(generator.about["bucket"]).frames, *bucket_size(generator.about["resolution"], 1.0))
        found = answers[name] = list(ask(generator, combinations, size, config.sampler, config.seed, progress.update))
        stages[name] = {group: dataclasses.asdict(Score.of(some)) for group, some in by_group(found).items()}
    progress.close()
    return {"stages": stages, "chance": CHANCE, "sampler": dataclasses.asdict(config.sampler)}, answers


def pick(answers: list[Answer], count: int) -> list[Answer]:
    """Some of both groups, evenly: the first, not the best."""
    groups = by_group(answers)
    return groups["trained"][: count - count // 3] + groups["held_out"][: count // 3]


def report(evaluation: dict) -> str:
    """The table of all stages, and one line of the last."""
    header, *rows = score_rows(evaluation["stages"], evaluation["chance"])
    last = list(evaluation["stages"].values())[-1]["trained"]
    followed = ", ".join(f"{name} {last[name]:.0%} (guessing: {chance:.0%})" for name, chance in CHANCE.items())
    return f"{cli.table(rows, [str(name) for name in header])}\n\nprompts followed: {followed}"


if __name__ == "__main__":
    cli.main(EvaluateConfig, run)
