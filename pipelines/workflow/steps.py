"""A recipe's steps: which job makes what, with which flags, from which others' outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingen.io.redact import redact
from pipelines.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class WorkflowStep:
    """One job of the workflow."""

    name: str
    job: str
    """name of its file in jobs/"""
    flags: tuple[str, ...]
    output: Path
    """the folder or file that it makes"""
    after: tuple[str, ...] = ()
    """names of the steps whose outputs it reads"""
    waits_for: tuple[str, ...] = ()
    """names of steps that go first although it reads nothing of theirs: side by side they would only slow each other"""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """what decides the result and is not among the flags: how the recipe trains the stage"""

    @property
    def command(self) -> list[str]:
        """The command to run it by hand."""
        return ["python", f"jobs/{self.job}.py", *map(redact, self.flags)]


def steps_of(recipe: Recipe, output: Path, clips: str | None, quality: str | None = None) -> list[WorkflowStep]:
    """The recipe's steps, each after those that it reads from; of two that could start, the earlier one goes first.

    Args:
        output: the workflow's folder.
        clips: folder or manifest; None makes the demo's clips (demo recipe only).
        quality: reviewed list that quality tuning trains on; None takes curation's unreviewed proposal.

    Raises:
        ValueError: no clips are given, and the recipe does not make any.
    """
    steps: list[WorkflowStep] = []
    if clips is None:
        if recipe.name != "demo":
            raise ValueError(f"--clips: recipe {recipe.name} needs a folder of clips or a manifest")
        steps.append(WorkflowStep("clips", "demo_clips", ("--output", str(output / "clips")), output / "clips"))
    curated, tae = output / "curated", output / "tae"
    source = clips or str(output / "clips" / "manifest.csv")
    flags = ("--input", source, "--output", str(curated), *recipe.curate)
    steps.append(WorkflowStep("curate", "curate", flags, curated, tuple(s.name for s in steps)))
    flags = ("--curated", str(curated), "--output", str(tae), *recipe.tae)
    steps.append(WorkflowStep("train TAE", "train_tae", flags, tae, ("curate",)))
    encoded = _encoding_steps(recipe, output, curated, tae)
    trained = _training_steps(recipe, output, encoded, quality or str(curated / "quality.csv"))
    steps += [*encoded.values(), *trained]
    last, video = steps[-1], output / "sample.mp4"
    flags = ("--checkpoint", str(last.output), "--output", str(video), *recipe.generate)
    # It takes a GPU that no other step knows of.
    others = tuple(step.name for step in trained[:-1])
    steps.append(WorkflowStep("generate", "generate", flags, video, (last.name,), others))
    if clips is None:  # only on the demo's own scenes can be told what was learnt
        videos = [step for step, stage in zip(trained, recipe.stages) if stage.frames > 1]
        steps += _evaluation_steps(output, videos)
    return steps


def _encoding_steps(recipe: Recipe, output: Path, curated: Path, tae: Path) -> dict[int, WorkflowStep]:
    """Resolution -> its step, one after the other: each keeps all CPUs busy, but training may go on beside it."""
    steps: dict[int, WorkflowStep] = {}
    before: tuple[str, ...] = ()
    flags: tuple[str, ...]
    for resolution, stages in recipe.resolutions().items():
        latents = output / f"latents_{resolution}p"
        flags = ("--curated", str(curated), "--tae", str(tae), "--output", str(latents), "--stages", *stages)
        flags = (*flags, *recipe.encode)
        step = WorkflowStep(f"encode {resolution}p", "encode", flags, latents, ("curate", "train TAE"), before)
        steps[resolution], before = step, (step.name,)
    return steps


def _training_steps(
    recipe: Recipe, output: Path, encoded: Mapping[int, WorkflowStep], quality: str
) -> list[WorkflowStep]:
    """One step per stage; each starts from the stage that it names, or from the previous one."""
    steps: dict[str, WorkflowStep] = {}
    before: WorkflowStep | None = None
    for stage in recipe.stages:
        run, latents = output / "runs" / stage.name, encoded[stage.resolution]
        flags: tuple[str, ...] = ("--stage", stage.name, "--shards", str(latents.output), "--output", str(run))
        after: tuple[str, ...] = (latents.name,)
        if stage.quality:
            flags, after = (*flags, "--quality", quality), (*after, "curate")
        if stage.after is not None:
            before = steps[stage.after]
        if before is not None:
            flags, after = (*flags, "--init", str(before.output)), (*after, before.name)
        step = WorkflowStep(f"train {stage.name}", "train", flags, run, after, settings=stage.content())
        before = steps[stage.name] = step
    return list(steps.values())


def _evaluation_steps(output: Path, trained: list[WorkflowStep]) -> list[WorkflowStep]:
    """A step that scores each model as soon as it is trained; the last one puts scores and the sheet together."""
    steps: list[WorkflowStep] = []
    flags: tuple[str, ...]
    for step in trained:
        scores = output / "scores" / step.output.name
        flags = ("--checkpoints", str(step.output), "--output", str(scores))
        steps.append(WorkflowStep(f"evaluate {step.output.name}", "evaluate", flags, scores, (step.name,)))
    flags = ("--checkpoints", *(str(step.output) for step in trained))
    flags = (*flags, "--scored", *(str(step.output) for step in steps), "--output", str(output / "evaluation"))
    after = tuple(step.name for step in steps)
    return [*steps, WorkflowStep("evaluate", "evaluate", flags, output / "evaluation", after)]
