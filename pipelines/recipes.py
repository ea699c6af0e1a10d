"""Recipes: the stages that a model goes through, and how each is trained. Data only.

`paper` has LinGen's five stages and its quality tuning (steps, batches and shapes from lingen/model/stages.py; learning
rates and schedules are Movie Gen's, LinGen states none). `demo` has the same stages in miniature, for two CPU cores and
a few minutes.
"""

from __future__ import annotations

import dataclasses

from lingen.model.stages import DEMO_STAGES, STAGES, TUNING_STAGES, Stage
from lingen.train.config import FitConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStage:
    """One stage: its samples, and how it is trained."""

    name: str
    preset: str
    """architecture (lingen/model/presets.py)"""
    resolution: int
    """of its buckets"""
    frames: int
    """length of its videos, which are mixed with images; 1: images only"""
    fit: FitConfig
    """training settings"""
    quality: bool = False
    """whether it trains only on the reviewed clips"""
    after: str | None = None
    """stage whose weights it starts from; default: the previous one in the recipe"""

    def content(self) -> dict[str, object]:
        """What decides the stage's result beside its inputs, as JSON values."""
        return {"preset": self.preset, "resolution": self.resolution, "frames": self.frames, "fit": self.fit.content()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """All jobs from clips to a generated video."""

    name: str
    stages: tuple[TrainStage, ...]
    """in order"""
    curate: tuple[str, ...]
    """flags of jobs/curate.py"""
    tae: tuple[str, ...]
    """flags of jobs/train_tae.py"""
    encode: tuple[str, ...]
    """flags of jobs/encode.py, for every resolution"""
    generate: tuple[str, ...]
    """flags of jobs/generate.py"""

    def resolutions(self) -> dict[int, tuple[str, ...]]:
        """Resolution -> names of its stages, in order. Each is encoded by itself, while the one before is trained."""
        found: dict[int, tuple[str, ...]] = {}
        for stage in self.stages:
            found[stage.resolution] = (*found.get(stage.resolution, ()), stage.name)
        return found


def _stage(stage: Stage, preset: str, fit: FitConfig, after: str | None = None) -> TrainStage:
    return TrainStage(
        name=stage.name,
        preset=preset,
        resolution=stage.resolution,
        frames=stage.frames,
        fit=dataclasses.replace(fit, steps=stage.steps, batch_size=stage.batch),
        quality=stage.quality_clips > 0,
        after=after,
    )


# Movie Gen: 1e-4 for images, 6e-5 falling to 1e-5 for video; tuning with a small batch, cosine and averaged weights.
_PAPER_VIDEO = FitConfig(
    lr=6e-5,
    lr_end=1e-5,
    warmup=1000,
    precision="bfloat16",
    activation_checkpointing=True,
    compile=True,
    micro_batch=1,
    checkpoint_every=500,
    sample_every=3000,
    validate_every=1000,
)
_PAPER_IMAGE = dataclasses.replace(_PAPER_VIDEO, lr=1e-4, schedule="constant", micro_batch=32)


def _paper_tuning(stage: Stage) -> FitConfig:
    return dataclasses.replace(
        _PAPER_VIDEO,
        lr=1e-5,
        lr_end=0.0,
        warmup=stage.steps // 20,
        image_ratio="0",
        average_last=stage.steps // 4,
        checkpoint_every=100,
        sample_every=100,
        validate_every=50,
    )


PAPER = Recipe(
    name="paper",
    stages=(
        *(_stage(stage, "lingen_4b", _PAPER_IMAGE if stage.frames == 1 else _PAPER_VIDEO) for stage in STAGES),
        *(
            _stage(stage, "lingen_4b", _paper_tuning(stage), after=stage.name.replace("tune", "t2v"))
            for stage in TUNING_STAGES
        ),
    ),
    curate=(
        *("--filter.min-aesthetic", "4.5", "--filter.min-motion", "p25"),
        *("--spans.stages", *(stage.name for stage in STAGES if stage.seconds)),
        *("--quality.count", str(sum(stage.quality_clips for stage in TUNING_STAGES))),
    ),
    tae=("--fit.preset", "tae_paper", "--workers.gpus", "1"),
    encode=("--serve-shorter", "--workers.gpus", "1"),
    generate=("--seconds", "68"),
)

_DEMO_VIDEO = FitConfig(
    lr=2e-3,
    lr_end=2e-4,
    warmup=10,
    image_ratio="1:10",  # 1:100 would be two or three batches of a stage this short
    ema_decay=0.98,
    held_out=0.03,
    log_every=5,
    checkpoint_every=50,
    validate_every=50,
    validation_samples=12,
)
_DEMO_FITS = {
    "demo_t2i_64p": dataclasses.replace(_DEMO_VIDEO, schedule="constant"),
    "demo_t2v_64p_1s": dataclasses.replace(
        _DEMO_VIDEO, lr=3e-3, lr_end=3e-4, warmup=20, ema_decay=0.995, checkpoint_every=250, validate_every=250
    ),
    "demo_tune_96p_4s": dataclasses.replace(
        _DEMO_VIDEO, lr=1e-4, lr_end=0.0, warmup=2, image_ratio="0", average_last=10, validate_every=10
    ),
}

DEMO = Recipe(
    name="demo",
    curate=("--quality.count", str(DEMO_STAGES[-1].quality_clips)),
    # The TAE starts from the principal components of the clips; more steps than one would cost time and gain 0.1 dB.
    tae=(
        *("--pixels.resolution", "64", "--pixels.frames", "16", "--pixels.clips", "256", "--fit.preset", "tae_tiny"),
        *("--fit.steps", "1", "--fit.batch-size", "2", "--fit.crop", "64", "--fit.frames", "16", "--fit.warmup", "0"),
    ),
    encode=("--text", "lingen-tiny", "--serve-shorter", "--max-windows-per-clip", "1"),
    stages=tuple(_stage(stage, "tiny", _DEMO_FITS.get(stage.name, _DEMO_VIDEO)) for stage in DEMO_STAGES),
    generate=("--sampler.guidance", "4"),
)

RECIPES = {recipe.name: recipe for recipe in (DEMO, PAPER)}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none; the message lists all names.
    """
    if name not in RECIPES:
        raise ValueError(f"--recipe: {name} is unknown; the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]


def find_stage(name: str) -> tuple[Recipe, TrainStage]:
    """The stage of that name, and its recipe.

    Raises:
        ValueError: no recipe has it; the message lists all names.
    """
    for recipe in RECIPES.values():
        for stage in recipe.stages:
            if stage.name == name:
                return recipe, stage
    names = ", ".join(stage.name for recipe in RECIPES.values() for stage in recipe.stages)
    raise ValueError(f"--stage: {name} is unknown; the stages are {names}")
