"""The workflow: a recipe's jobs in order, each skipped when it is done and redone when one before it was.

A step is done when its output folder's manifest is there and the step was run with these flags on these inputs
(pipeline.json in the workflow's folder remembers). Jobs run as processes of their own: what one leaves behind does not
touch the next, and each can be run by hand with the command that is printed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from data_prep.ray_cluster import shared_cluster
from lingen.io.exit_codes import PREEMPTED
from lingen.io.manifest import MANIFEST, digest, file_digest, read_json, read_manifest, write_json
from lingen.io.progress import clock
from lingen.train.observers.preemption import on_sigterm
from pipelines.recipes import RECIPES, Recipe
from pipelines.tracking import Run, store_beside, tracked

ROOT = Path(__file__).parents[1]
STATE = "pipeline.json"


class StepFailed(Exception):
    """A job ended with an exit code other than 0; a negative one is the signal that killed it, as subprocess has it."""

    def __init__(self, step: str, code: int):
        super().__init__(f"{step} {'was killed by signal' if code < 0 else 'ended with exit code'} {abs(code)}")
        self.code = code if code >= 0 else 128 - code  # as a shell has it


@dataclasses.dataclass(frozen=True)
class WorkflowStep:
    """One job: flags; output, its folder or file; after, the steps whose outputs it reads."""

    name: str
    job: str
    flags: tuple[str, ...]
    output: Path
    after: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        return ["python", f"jobs/{self.job}.py", *self.flags]


@dataclasses.dataclass(frozen=True)
class StepOutcome:
    """What became of a step: done, skipped; and how long it took."""

    step: WorkflowStep
    state: str
    seconds: float


def steps_of(recipe: Recipe, output: Path, clips: str | None, quality: str | None = None) -> list[WorkflowStep]:
    """The recipe's steps.

    Args: output, the workflow's folder; clips, folder or manifest, None makes the demo's own (demo recipe only);
    quality, the reviewed list that quality tuning trains on, None takes curation's proposal unreviewed.

    Raises:
        ValueError: the recipe has no clips of its own and none are given.
    """
    steps = []
    if clips is None:
        if recipe.name != "demo":
            raise ValueError(f"--clips: recipe {recipe.name} needs a folder of clips or a manifest")
        steps.append(WorkflowStep("clips", "demo_clips", ("--output", str(output / "clips")), output / "clips"))
        clips = str(output / "clips" / "manifest.csv")
    curated, tae = output / "curated", output / "tae"
    flags = ("--input", clips, "--output", str(curated), *recipe.curate)
    steps.append(WorkflowStep("curate", "curate", flags, curated, tuple(s.name for s in steps)))
    flags = ("--curated", str(curated), "--output", str(tae), *recipe.tae)
    steps.append(WorkflowStep("train TAE", "train_tae", flags, tae, ("curate",)))
    latents = output / "latents"
    flags = ("--curated", str(curated), "--tae", str(tae), "--output", str(latents), *recipe.encode)
    steps.append(WorkflowStep("encode", "encode", flags, latents, ("curate", "train TAE")))
    before, runs = None, {}
    for stage in recipe.stages:
        run = output / "runs" / stage.name
        flags, after = ("--stage", stage.name, "--shards", str(latents), "--output", str(run)), ("encode",)
        if stage.quality:
            flags = (*flags, "--quality", quality or str(curated / "quality.csv"))
        if before := runs.get(stage.after, before):
            flags, after = (*flags, "--init", str(before.output)), (*after, before.name)
        before = runs[stage.name] = WorkflowStep(f"train {stage.name}", "train", flags, run, after)
        steps.append(before)
    video = output / "sample.mp4"
    flags = ("--checkpoint", str(before.output), "--output", str(video), *recipe.generate)
    steps.append(WorkflowStep("generate", "generate", flags, video, (before.name,)))
    return steps


class Workflow:
    """A recipe in a folder."""

    def __init__(self, recipe: str, output: Path, clips: str | None = None, quality: str | None = None):
        if recipe not in RECIPES:
            raise ValueError(f"--recipe: {recipe} is unknown; the recipes are {', '.join(RECIPES)}")
        if clips is not None and "://" not in clips and not Path(clips).exists():
            raise ValueError(f"--clips: {clips} does not exist; name a folder of clips or a manifest")
        if quality is not None and not Path(quality).is_file():
            raise ValueError(f"--quality: {quality} is no file; name a reviewed quality.csv")
        if output.exists() and not output.is_dir():
            raise ValueError(f"--output: {output} is a file; name a folder")
        self.recipe, self.output, self.clips, self.quality = recipe, output, clips, quality
        self.steps = steps_of(RECIPES[recipe], output, clips, quality)
        path = output / STATE
        self._keys: dict[str, str] = read_json(path) if path.is_file() else {}

    def state(self, step: WorkflowStep) -> str:
        """done, started (resumes when run), stale (flags or inputs changed) or missing."""
        finished = step.output.is_file() if step.output.suffix else (step.output / MANIFEST).is_file()
        if finished:
            return "done" if self._keys.get(step.name) == self._key(step) else "stale"
        return "started" if step.output.exists() else "missing"

    def run(self) -> list[StepOutcome]:
        """Run what is not done.

        Raises:
            StepFailed: a job failed; those before it are kept, and the same call goes on with it.
        """
        outcomes: list[StepOutcome] = []
        with contextlib.ExitStack() as stack:
            run, cluster = None, {}
            if any(self.state(step) != "done" for step in self.steps):
                # One parent run a workflow folder: the jobs' runs hang under it.
                store = store_beside(self.output / "tracking")
                run = stack.enter_context(tracked(self.output / "tracking", self.experiment, "workflow", uri=store))
                run.wait_for_id()
                cluster = stack.enter_context(shared_cluster())
            self._run_steps(outcomes, run, cluster)
        return outcomes

    @property
    def experiment(self) -> str:
        return f"lingen-{self.recipe}"

    def _run_steps(self, outcomes: list[StepOutcome], run: Run | None, cluster: dict[str, str]) -> None:
        for number, step in enumerate(self.steps, 1):
            title = f"[{number}/{len(self.steps)}] {step.name}"
            if self.state(step) == "done":
                print(f"{title}: done before", flush=True)
                outcomes.append(StepOutcome(step, "skipped", 0.0))
                continue
            print(f"\n{title}\n  {shlex.join(step.command)}", flush=True)
            started = time.monotonic()
            self._run_job(step, run, cluster)
            self._keys[step.name] = self._key(step)
            write_json(self.output / STATE, self._keys)
            outcomes.append(StepOutcome(step, "done", time.monotonic() - started))
            print(f"  {step.name} took {clock(outcomes[-1].seconds)}", flush=True)
            if step.output.suffix:
                run.artifact(step.output)

    def _run_job(self, step: WorkflowStep, run: Run, cluster: dict[str, str]) -> None:
        job = [sys.executable, str(ROOT / "jobs" / f"{step.job}.py"), *step.flags]
        if not step.output.suffix and step.job != "demo_clips":
            job.append("--overwrite")  # what other flags left here is replaced; what these flags began is resumed
        tracking = {"MLFLOW_TRACKING_URI": run.uri, "MLFLOW_EXPERIMENT_NAME": self.experiment}
        environment = os.environ | cluster | tracking
        if run.run_id:
            environment["LINGEN_PARENT_RUN"] = run.run_id
        process = subprocess.Popen(job, env=environment)
        told: list[bool] = []

        def pass_on() -> None:
            told.append(True)
            process.terminate()

        try:
            with on_sigterm(pass_on):
                code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it got the same Ctrl-C and is saving its state
            raise
        if code:
            raise StepFailed(step.name, PREEMPTED if told else code)

    def _key(self, step: WorkflowStep) -> str:
        """Of the flags, wherever the folder is and however it is spelled, and of what the steps before it made."""
        inside = f"{self.output}{os.sep}"
        flags = [f"{{output}}/{f.removeprefix(inside)}" if f.startswith(inside) else f for f in step.flags]
        inputs = [self._made(s) for s in self.steps if s.name in step.after]
        files = self._clips_stamp() if not step.after else None
        if self.quality is not None and "--quality" in step.flags:
            files = file_digest(self.quality)
        return digest({"flags": flags, "inputs": inputs, "clips": files})

    def _made(self, step: WorkflowStep) -> str | None:
        manifest = read_manifest(step.output)
        return manifest and digest(manifest["key"])

    def _clips_stamp(self) -> list:
        """Changes when the user's manifest or the listing of the folder changes; curation itself hashes contents."""
        if self.clips is None or "://" in self.clips:
            return []
        path = Path(self.clips)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
