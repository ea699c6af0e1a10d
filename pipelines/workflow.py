"""The workflow: a recipe's jobs in order, each skipped when it is done, and redone when an earlier one was.

A step is done when its output has a manifest and was made with the same flags from the same inputs (recorded in
pipeline.json in the workflow's folder). Each job runs in a separate process: what one leaves behind does not affect the
next, and each can be run by hand with the command that is printed.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from data_prep.curate.story import why_nothing_was_kept
from data_prep.ray_cluster import shared_cluster
from lingen.io.exit_codes import PREEMPTED
from lingen.io.job_files import move_aside
from lingen.io.manifest import MANIFEST, digest, file_digest, read_json, read_manifest, write_json
from lingen.io.progress import clock
from lingen.io.redact import printable, redact
from lingen.text.open_clip import RANDOM_WEIGHTS_SAID
from lingen.train.observers.preemption import on_sigterm
from pipelines.job_flags import JobFlags, as_typed, with_flags
from pipelines.overview import log_evaluation, log_step, log_tables
from pipelines.recipes import RECIPES, Recipe
from pipelines.tracking import Run, catch_up, git_state, store_beside, tracked

ROOT = Path(__file__).parents[1]
STATE = "pipeline.json"


class StepFailed(Exception):
    """A job ended with an exit code other than 0; a negative one is the signal that killed it, like subprocess's.

    Attributes:
        code: the exit code, 128 + signal for a killed job, like a shell's.
    """

    def __init__(self, step: str, code: int):
        super().__init__(f"{step} {'was killed by signal' if code < 0 else 'ended with exit code'} {abs(code)}")
        self.code = code if code >= 0 else 128 - code


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

    @property
    def command(self) -> list[str]:
        """The command to run it by hand."""
        return ["python", f"jobs/{self.job}.py", *map(redact, self.flags)]


@dataclasses.dataclass(frozen=True)
class StepOutcome:
    """The outcome of a step."""

    step: WorkflowStep
    state: str
    """done or skipped"""
    seconds: float
    """how long it took"""


def steps_of(recipe: Recipe, output: Path, clips: str | None, quality: str | None = None) -> list[WorkflowStep]:
    """The recipe's steps.

    Args:
        output: the workflow's folder.
        clips: folder or manifest; None makes the demo's clips (demo recipe only).
        quality: reviewed list that quality tuning trains on; None takes curation's unreviewed proposal.

    Raises:
        ValueError: no clips are given, and the recipe does not make any.
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
    trained = _training_steps(recipe, output, latents, quality or str(curated / "quality.csv"))
    steps += trained
    last, video = steps[-1], output / "sample.mp4"
    flags = ("--checkpoint", str(last.output), "--output", str(video), *recipe.generate)
    steps.append(WorkflowStep("generate", "generate", flags, video, (last.name,)))
    if steps[0].job == "demo_clips":  # only on its scenes can be told what was learnt
        evaluation = output / "evaluation"
        videos = [step for step, stage in zip(trained, recipe.stages) if stage.frames > 1]
        flags = ("--checkpoints", *(str(step.output) for step in videos), "--output", str(evaluation))
        steps.append(WorkflowStep("evaluate", "evaluate", flags, evaluation, tuple(step.name for step in videos)))
    return steps


def _training_steps(recipe: Recipe, output: Path, latents: Path, quality: str) -> list[WorkflowStep]:
    """One step per stage; each starts from the stage that it names, or from the previous one."""
    steps: dict[str, WorkflowStep] = {}
    before: WorkflowStep | None = None
    for stage in recipe.stages:
        run = output / "runs" / stage.name
        flags: tuple[str, ...] = ("--stage", stage.name, "--shards", str(latents), "--output", str(run))
        after: tuple[str, ...] = ("encode",)
        if stage.quality:
            flags = (*flags, "--quality", quality)
        if stage.after is not None:
            before = steps[stage.after]
        if before is not None:
            flags, after = (*flags, "--init", str(before.output)), (*after, before.name)
        before = steps[stage.name] = WorkflowStep(f"train {stage.name}", "train", flags, run, after)
    return list(steps.values())


class Workflow:
    """A recipe in a folder.

    Args:
        recipe: its name.
        output: the workflow's folder.
        clips, quality: as of `steps_of`.
        flags: flags of single jobs, in place of the recipe's; unchecked (see pipelines.job_flags).

    Raises:
        ValueError: bad configuration; the message names the flag.
    """

    def __init__(
        self,
        recipe: str,
        output: Path,
        clips: str | None = None,
        quality: str | None = None,
        flags: JobFlags | None = None,
    ):
        if recipe not in RECIPES:
            raise ValueError(f"--recipe: {recipe} is unknown; the recipes are {', '.join(RECIPES)}")
        if clips is not None and "://" not in clips and not Path(clips).exists():
            raise ValueError(f"--clips: {clips} does not exist; give a folder of clips or a manifest")
        if quality is not None and not Path(quality).is_file():
            raise ValueError(f"--quality: {quality} is not a file; give a reviewed quality.csv")
        if output.exists() and not output.is_dir():
            raise ValueError(f"--output: {output} is a file; give a folder")
        self.recipe, self.output, self.clips, self.quality = recipe, output, clips, quality
        self.steps = steps_of(RECIPES[recipe], output, clips, quality)
        if flags:
            self.steps = [dataclasses.replace(s, flags=with_flags(s.flags, flags.get(s.job, ()))) for s in self.steps]
        self._keys = _read_state(output / STATE)

    def state(self, step: WorkflowStep) -> str:
        """done, started (running it resumes), stale (flags or inputs changed) or missing."""
        finished = step.output.is_file() if step.output.suffix else (step.output / MANIFEST).is_file()
        if finished:
            return "done" if self._keys.get(step.name) == self._key(step) else "stale"
        return "started" if step.output.exists() else "missing"

    def run(self) -> list[StepOutcome]:
        """Run what is not done.

        Raises:
            StepFailed: a job failed; the finished ones are kept, and the same call resumes with the failed one.
            ValueError: curation kept nothing.
        """
        # One parent run per workflow folder; the jobs' runs are its children.
        folder = self.output / "tracking"
        if all(self.state(step) == "done" for step in self.steps):
            catch_up(folder, store_beside(folder))
            return [self._skip(step) for step in self.steps]
        with tracked(folder, self.experiment, "workflow", uri=store_beside(folder)) as run, shared_cluster() as cluster:
            for key, value in {"recipe": self.recipe, "clips": self._clips_name, **git_state()}.items():
                run.tag(key, value)
            run.wait_for_id()
            environment = cluster | {"MLFLOW_TRACKING_URI": run.uri, "MLFLOW_EXPERIMENT_NAME": self.experiment}
            if run.run_id:
                environment["LINGEN_PARENT_RUN"] = run.run_id
            outcomes: list[StepOutcome] = []
            for step in self.steps:
                outcomes.append(self._skip(step) if self.state(step) == "done" else self._run(step, environment))
                if outcomes[-1].state == "done":
                    self._log(run, outcomes)
                if step.job == "curate":
                    _require_clips(step.output)
        return outcomes

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment."""
        return f"lingen-{self.recipe}"

    @property
    def _clips_name(self) -> str:
        return self.clips or "made by the recipe"

    def _title(self, step: WorkflowStep) -> str:
        return f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step.name}"

    def _log(self, run: Run, outcomes: list[StepOutcome]) -> None:
        """Log what the newest step came to."""
        step = outcomes[-1].step
        stages = [s.output for s in self.steps if s.job == "train"]
        evaluated = next((o.step.output for o in outcomes if o.step.job == "evaluate"), None)
        log_step(run, step.name, outcomes[-1].seconds)
        if step.output.suffix:
            run.artifact(step.output)
        if step.output == evaluated:
            log_evaluation(run, evaluated, [folder.name for folder in stages])
        where = redact(f"Recipe {self.recipe} in {self.output}, clips: {self._clips_name}.")
        took = [(o.step.name, clock(o.seconds) if o.state == "done" else "done before") for o in outcomes]
        reached = {o.step.output for o in outcomes}
        log_tables(run, where, took, [folder for folder in stages if folder in reached], evaluated)

    def _skip(self, step: WorkflowStep) -> StepOutcome:
        print(f"{self._title(step)}: done before", flush=True)
        return StepOutcome(step, "skipped", 0.0)

    def _run(self, step: WorkflowStep, environment: dict[str, str]) -> StepOutcome:
        """Run a step's job, and record its key."""
        print(f"\n{self._title(step)}\n  {shlex.join(step.command)}", flush=True)
        started = time.monotonic()
        if step.output.is_file() and step.name not in self._keys:
            print(f"  {step.output} was there before; it is now {move_aside(step.output)}", flush=True)
        said = {} if step.job == "encode" else {RANDOM_WEIGHTS_SAID: "1"}  # encoding says it for all
        _run_job(step, environment | said)
        self._keys[step.name] = self._key(step)
        write_json(self.output / STATE, self._keys)
        outcome = StepOutcome(step, "done", time.monotonic() - started)
        print(f"  {step.name} took {clock(outcome.seconds)}", flush=True)
        return outcome

    def _key(self, step: WorkflowStep) -> str:
        """Digest of the flags, whatever the spelling of the folder, and of the inputs' keys."""
        inside = f"{self.output}{os.sep}"
        flags = [f"{{output}}/{f.removeprefix(inside)}" if f.startswith(inside) else f for f in step.flags]
        inputs = [_key_digest(s.output) for s in self.steps if s.name in step.after]
        files: list[list] | str | None = self._clips_stamp() if not step.after else None
        if self.quality is not None and "--quality" in step.flags:
            files = file_digest(self.quality)
        return digest({"flags": flags, "inputs": inputs, "clips": files})

    def _clips_stamp(self) -> list[list]:
        """Changes when the user's manifest or the listing of the folder changes; curation itself hashes contents."""
        if self.clips is None or "://" in self.clips:
            return []
        path = Path(self.clips)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def _read_state(path: Path) -> dict[str, str]:
    """The keys of the finished steps, from pipeline.json. ValueError: the file is not one that this module wrote."""
    if not path.is_file():
        return {}
    try:
        keys = read_json(path)
    except (ValueError, RecursionError):
        keys = None
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        raise ValueError(f"--output: {path} is not from this workflow; choose another folder, or remove the file")
    return keys


def _run_job(step: WorkflowStep, environment: Mapping[str, str]) -> None:
    """Run a step's job in a process with this environment beside our own. StepFailed: it did not end with 0."""
    job = [sys.executable, str(ROOT / "jobs" / f"{step.job}.py"), *step.flags]
    if not step.output.suffix and step.job != "demo_clips":
        job.append("--overwrite")  # what other flags left here is replaced; what these flags began is resumed
    process = subprocess.Popen(job, env=os.environ | environment)
    terminated = threading.Event()

    def terminate() -> None:
        terminated.set()
        process.terminate()

    try:
        with on_sigterm(terminate):
            code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the same Ctrl-C and is saving its state
        raise
    if code:
        raise StepFailed(step.name, PREEMPTED if terminated.is_set() else code)


def _key_digest(output: Path) -> str | None:
    """Digest of the key of a finished output folder; None when it is not finished."""
    manifest = read_manifest(output)
    return digest(manifest["key"]) if manifest else None


def _require_clips(curated: Path) -> None:
    """ValueError, with the main reason and the flag that helps: curation kept nothing, so nothing can follow."""
    path = curated / "summary.json"
    if path.is_file() and not read_json(path)["kept"]:
        main_reason, _, *helps, _ = why_nothing_was_kept(curated)
        reasons = "; ".join(printable(line.strip()) for line in (main_reason, *helps))
        raise ValueError(f"--clips: {as_typed('curate', reasons)}; every decision: {curated}/report.html")
