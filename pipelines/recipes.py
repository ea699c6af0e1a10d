"""Recipes: which stages a model goes through, and how each is trained. Data only.

`paper` has LinGen's five stages (steps, batches and shapes from lingen.stages; learning rates are Movie Gen's, LinGen
states none). `demo` has the same kind of stages in miniature, for two CPU cores and a few minutes.
"""

from __future__ import annotations

import dataclasses

from lingen.stages import STAGES
from lingen.training import FitConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStage:
    """One stage: which samples it draws and how it is trained. Samples: `resolution` and, for videos, `frames`."""

    name: str
    preset: str
    resolution: int
    frames: int
    fit: FitConfig

    @property
    def media(self) -> str | None:
        """Image stages draw images alone; video stages mix both."""
        return "image" if self.frames == 1 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages in order: each starts from the one before."""

    name: str
    stages: tuple[TrainStage, ...]


def _paper_fit(stage) -> FitConfig:
    image = stage.frames == 1
    return FitConfig(
        steps=stage.steps,
        batch_size=stage.batch,
        lr=1e-4 if image else 6e-5,
        lr_end=1e-4 if image else 1e-5,
        warmup=1000,
        precision="bfloat16",
        activation_checkpointing=True,
        compile=True,
        micro_batch=1 if not image else 32,
        checkpoint_every=500,
        sample_every=2000,
    )


PAPER = Recipe(
    name="paper",
    stages=tuple(
        TrainStage(
            name=stage.name,
            preset="lingen_4b",
            resolution=256 if "256p" in stage.name else 512,
            frames=stage.frames,
            fit=_paper_fit(stage),
        )
        for stage in STAGES
    ),
)

DEMO_RESOLUTION, DEMO_FRAMES = 64, 32

DEMO = Recipe(
    name="demo",
    stages=(
        TrainStage(
            name="demo_t2i_64p",
            preset="tiny",
            resolution=DEMO_RESOLUTION,
            frames=1,
            fit=FitConfig(
                steps=150,
                batch_size=16,
                lr=2e-3,
                lr_end=1e-3,
                warmup=20,
                ema_decay=0.98,
                log_every=5,
                checkpoint_every=50,
            ),
        ),
        TrainStage(
            name="demo_t2v_64p_2s",
            preset="tiny",
            resolution=DEMO_RESOLUTION,
            frames=DEMO_FRAMES,
            fit=FitConfig(
                steps=300,
                batch_size=8,
                lr=1.5e-3,
                lr_end=1e-4,
                warmup=20,
                ema_decay=0.98,
                log_every=5,
                checkpoint_every=50,
                sample_every=150,
            ),
        ),
    ),
)

RECIPES = {recipe.name: recipe for recipe in (DEMO, PAPER)}


def find_stage(name: str) -> tuple[Recipe, TrainStage]:
    """The stage of that name and its recipe.

    Raises:
        ValueError: no recipe has it; the message lists all names.
    """
    for recipe in RECIPES.values():
        for stage in recipe.stages:
            if stage.name == name:
                return recipe, stage
    names = ", ".join(stage.name for recipe in RECIPES.values() for stage in recipe.stages)
    raise ValueError(f"--stage: {name} is unknown; the stages are {names}")
