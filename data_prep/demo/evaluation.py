"""Scoring models by prompts about the demo's scenes, one after the other or each by itself.

Models that were scored in other processes (`--scored`) are not asked again: their scores and answers are read.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from data_prep.demo.answers import load_answers, save_answers
from data_prep.demo.following import CHANCE, Answer, Score, ask, by_group, choose
from data_prep.demo.sheet import draw_sheet
from lingen.data.buckets import Bucket, bucket_size
from lingen.generate.generator import Generator
from lingen.generate.sampler import SamplerConfig
from lingen.io.manifest import OutputFolder, file_digest, read_json, require_manifest, to_plain, write_json
from lingen.io.progress import Progress
from lingen.model.pretrained import model_folder

EVALUATION, SHEET, ANSWERS = "evaluation.json", "sheet.png", "answers.npz"
Known = dict[str, tuple[dict[str, dict[str, float]], list[Answer]]]
"""model -> scores of its groups of prompts, and the answers for the contact sheet"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Ask models that were trained on the demo's scenes for colours, shapes and directions, and look what came out."""

    checkpoints: tuple[Path, ...]
    """Output folders of finished jobs/train.py, in the order in which they were trained."""
    output: Path
    """Folder for evaluation.json and the contact sheet, sheet.png (of the first and the last model)."""
    scored: tuple[Path, ...] = ()
    """Output folders of this job, with the same settings: models that were scored there are not asked again."""
    prompts: int = 48
    """Prompts for each model; a third of them are combinations that no clip shows."""
    seed: int = 0
    """Seed of the choice of prompts and of the noise."""
    sampler: SamplerConfig = dataclasses.field(default_factory=lambda: SamplerConfig(steps=12, guidance=4.0))
    """How the videos are sampled."""
    rows: int = 8
    """Prompts on the contact sheet."""
    device: str | None = None
    """cpu or cuda; default: cuda if available."""
    threads: int = 1
    """torch threads on the CPU; more only slow small models down."""
    overwrite: bool = False
    """Replace an output folder made with other settings."""

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ValueError("--checkpoints: name at least one output folder of jobs/train.py")
        if self.threads < 1:
            raise ValueError(f"--threads: need at least one, got {self.threads}")
        if self.prompts < 3:
            raise ValueError(f"--prompts: must be at least 3, got {self.prompts}")
        if not 1 <= self.rows <= self.prompts:
            raise ValueError(f"--rows: must be from 1 to the number of prompts, got {self.rows}")

    def models(self) -> dict[str, Path]:
        """Name -> folder of every model; a run's model folder has the name of the run."""
        folders = [path.absolute() for path in self.checkpoints]
        names = [folder.parent.name if folder.name == "model" else folder.name for folder in folders]
        return dict(zip(names, self.checkpoints))

    def content(self) -> dict[str, object]:
        """The settings that decide the result."""
        left_out = ("checkpoints", "output", "scored", "device", "threads", "overwrite")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in left_out}


def score_models(config: EvaluateConfig) -> dict[str, Any]:
    """Score every model and draw the sheet. A finished folder of the same settings is left as it is.

    Returns:
        The content of evaluation.json.

    Raises:
        ValueError: a folder of --checkpoints has no model, or one of --scored does not fit.
    """
    started = time.time()
    torch.set_num_threads(config.threads)
    models = config.models()
    inputs = {
        name: file_digest(model_folder(path, "--checkpoints") / "ema.safetensors") for name, path in models.items()
    }
    known = read_scored(config, inputs)
    folder = OutputFolder.open(config.output, "evaluate", config.content(), inputs, overwrite=config.overwrite)
    if not folder.finished:
        known |= ask_models(config, {name: path for name, path in models.items() if name not in known})
        stages = {name: known[name][0] for name in models}
        sampler = dataclasses.asdict(config.sampler)
        write_json(folder.path / EVALUATION, {"stages": stages, "chance": CHANCE, "sampler": sampler})
        answers = {name: known[name][1] for name in models}
        save_answers(folder.path / ANSWERS, answers)
        ends = list(answers)
        draw_sheet({name: answers[name] for name in (ends[0], ends[-1])}).save(folder.path / SHEET, optimize=True)
        folder.publish({name: file_digest(folder.path / name) for name in (EVALUATION, ANSWERS, SHEET)}, started)
    return read_json(folder.path / EVALUATION)


def read_scored(config: EvaluateConfig, models: dict[str, str]) -> Known:
    """What is known already of models (name -> digest of its weights), from the folders of --scored.

    Raises:
        ValueError: a folder has no finished scores, or they were made with other settings or of other weights.
    """
    known: Known = {}
    for folder in config.scored:
        manifest = require_manifest(folder, "evaluate", "--scored")
        settings, wanted = manifest["config"], to_plain(config.content())
        if changed := [name for name in wanted if settings.get(name) != wanted[name]]:
            name = changed[0]
            raise ValueError(f"--scored: {folder} has {name} {settings.get(name)}, not {wanted[name]}; score it again")
        if not (folder / ANSWERS).is_file():
            raise ValueError(f"--scored: {folder} has no {ANSWERS}; score its models again")
        answers = load_answers(folder / ANSWERS)
        for name, groups in read_json(folder / EVALUATION)["stages"].items():
            if models.get(name) == manifest["inputs"][name]:
                known[name] = groups, answers[name]
            elif name in models:
                raise ValueError(f"--scored: {folder} scored other weights of {name}; score them again")
    return known


def ask_models(config: EvaluateConfig, checkpoints: dict[str, Path]) -> Known:
    """Ask every model; the scores of its groups of prompts, and the answers for the contact sheet."""
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    combinations = choose(config.prompts, config.seed)
    progress = Progress("evaluate", len(combinations) * len(checkpoints), unit="videos")
    found: Known = {}
    for name, path in checkpoints.items():
        generator = Generator(path, device=device)
        size = (Bucket.parse(generator.about["bucket"]).frames, *bucket_size(generator.about["resolution"], 1.0))
        answers = list(ask(generator, combinations, size, config.sampler, config.seed, progress.update))
        scores = {group: dataclasses.asdict(Score.of(some)) for group, some in by_group(answers).items()}
        found[name] = scores, pick(answers, config.rows)
    if checkpoints:
        progress.close()
    return found


def pick(answers: list[Answer], count: int) -> list[Answer]:
    """Some of both groups, evenly: the first, not the best."""
    groups = by_group(answers)
    return groups["trained"][: count - count // 3] + groups["held_out"][: count // 3]
