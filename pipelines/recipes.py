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
    """One stage: which samples it draws and how it is trained.

    Image stages (frames = 1) draw images alone; video stages draw videos of `frames` and images, mixed.
    """

    name: str
    preset: str
    resolution: int
    frames: int
    fit: FitConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The whole way from clips to a video.

    Fields: stages, in order, each starting from the one before; curate, tae, generate: flags of these jobs; encode:
    flags of jobs/encode.py, one run for each resolution.
    """

    name: str
    stages: tuple[TrainStage, ...]
    curate: tuple[str, ...]
    tae: tuple[str, ...]
    encode: dict[int, tuple[str, ...]]
    generate: tuple[str, ...]


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
        sample_every=3000,
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
    curate=("--filter.min-aesthetic", "4.5", "--filter.min-motion", "p25"),
    tae=("--fit.preset", "tae_paper", "--workers.gpus", "1"),
    encode={
        256: ("--stages", "t2i_256p", "t2v_256p_17s", "--workers.gpus", "1"),
        512: ("--stages", "t2v_512p_17s", "t2v_512p_34s", "t2v_512p_68s", "--workers.gpus", "1"),
    },
    generate=("--seconds", "68"),
)

DEMO_RESOLUTION, DEMO_FRAMES = 64, 32

DEMO = Recipe(
    name="demo",
    # The demo's footage is camera moves over photographs, which a real curation would drop.
    curate=("--filter.min-scene-motion", "0"),
    tae=(
        *("--pixels.resolution", str(DEMO_RESOLUTION), "--pixels.frames", str(DEMO_FRAMES)),
        *(
            "--fit.preset",
            "tae_tiny",
            "--fit.steps",
            "400",
            "--fit.batch-size",
            "2",
            "--fit.crop",
            str(DEMO_RESOLUTION),
        ),
        *("--fit.frames", "16", "--fit.lr", "5e-4", "--fit.warmup", "20", "--fit.ema-decay", "0.99"),
        *("--fit.validate-every", "100", "--fit.checkpoint-every", "100"),
    ),
    encode={
        DEMO_RESOLUTION: (
            *("--resolution", str(DEMO_RESOLUTION), "--frames", str(DEMO_FRAMES)),
            *("--text.model", "lingen-tiny"),
        )
    },
    stages=(
        TrainStage(
            name="demo_t2i_64p",
            preset="tiny",
            resolution=DEMO_RESOLUTION,
            frames=1,
            fit=FitConfig(
                steps=200,
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
                steps=600,
                batch_size=8,
                lr=2e-3,
                lr_end=1e-4,
                warmup=20,
                ema_decay=0.98,
                log_every=5,
                checkpoint_every=50,
                sample_every=300,
            ),
        ),
    ),
    generate=("--sampler.guidance", "3"),
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
