"""Running a recipe in a folder: what is done is skipped, the rest runs and is recorded."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from data_prep.curate.story import why_nothing_was_kept
from data_prep.ray_cluster import shared_cluster
from lingen.io.folder_lock import FolderLock
from lingen.io.job_files import FILES, move_aside, remove_files
from lingen.io.manifest import CONFIG, MANIFEST, foreign_in, read_claim, read_json, write_json
from lingen.io.progress import clock
from lingen.io.redact import printable, redact
from lingen.text.open_clip import RANDOM_WEIGHTS_SAID
from pipelines.job_flags import JobFlags, as_typed, with_flags
from pipelines.overview import log_scores, log_sheet, log_step, log_tables
from pipelines.recipes import find_recipe
from pipelines.tracking import Run, catch_up, git_state, store_beside, tracked
from pipelines.workflow.keys import RERUN, VERSIONS, KeyMaker, differences, read_keys
from pipelines.workflow.relay import Relay
from pipelines.workflow.running import RunningFile
from pipelines.workflow.scheduler import JobCommand, Scheduler
from pipelines.workflow.steps import WorkflowStep, steps_of

ROOT = Path(__file__).parents[2]
STATE = "pipeline.json"


@dataclasses.dataclass(frozen=True)
class StepOutcome:
    """The outcome of a step."""

    step: WorkflowStep
    state: str
    """done or skipped"""
    seconds: float
    """how long it took"""


class Workflow:
    """A recipe in a folder.

    Args:
        recipe: its name.
        output: the workflow's folder.
        clips, quality: as of `steps_of`.
        flags: flags of single jobs, in place of the recipe's; unchecked (see pipelines.job_flags).
        jobs: how many steps may run at a time.

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
        jobs: int = 2,
    ):
        found = find_recipe(recipe)
        if clips is not None and "://" not in clips and not Path(clips).exists():
            raise ValueError(f"--clips: {clips} does not exist; give a folder of clips or a manifest")
        if quality is not None and not Path(quality).is_file():
            raise ValueError(f"--quality: {quality} is not a file; give a reviewed quality.csv")
        if output.exists() and not output.is_dir():
            raise ValueError(f"--output: {output} is a file; give a folder")
        self.recipe, self.output, self.clips, self.jobs = recipe, output, clips, jobs
        self.steps = steps_of(found, output, clips, quality)
        if flags:
            self.steps = [dataclasses.replace(s, flags=with_flags(s.flags, flags.get(s.job, ()))) for s in self.steps]
        self._keys = KeyMaker(output, self.steps, clips, quality)
        self._recorded = read_keys(output / STATE)
        self._relay = Relay()

    def refresh(self) -> None:
        """Read pipeline.json again: another process may be running the workflow."""
        self._recorded = read_keys(self.output / STATE)

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment."""
        return f"lingen-{self.recipe}"

    def states(self) -> dict[str, str]:
        """Step -> done, started (running it resumes), stale (its key, or a step it reads from, changed) or missing."""
        states: dict[str, str] = {}
        for step in self.steps:
            found = self._own_state(step)
            inputs_done = all(states[name] == "done" for name in step.after)
            states[step.name] = "stale" if found == "done" and not inputs_done else found
        return states

    def state(self, step: WorkflowStep) -> str:
        """One of `states`."""
        return self.states()[step.name]

    def _own_state(self, step: WorkflowStep) -> str:
        """The state of a step whose inputs are done."""
        if not _is_finished(step):
            return "started" if step.output.exists() else "missing"
        return "done" if self._keys.is_made_by(self._recorded.get(step.name), step) else "stale"

    def explain(self, step: WorkflowStep) -> str:
        """One sentence: whether the step will run, and what changed since it did."""
        states, recorded = self.states(), self._recorded.get(step.name)
        state = states[step.name]
        if state == "done":
            return f"{step.name} is done: nothing that decides its result has changed since."
        if state == "missing":
            return f"{step.name} has not run yet."
        if state == "started" and recorded != RERUN:
            return f"{step.name} has not come to its end: running it resumes."
        if not self._keys.is_made_by(recorded, step):
            reasons = differences(recorded, self._keys.key(step))
        else:
            first = next(s for s in self.steps if s.name in step.after and states[s.name] != "done")
            reasons = [f"'{first.name}', which it reads, is to run first ({self.explain(first).rstrip('.')})"]
        return f"{step.name} will run again: {'; '.join(reasons)}."

    def find(self, name: str | None) -> WorkflowStep:
        """The step of a name; _ or - may stand for spaces.

        Raises:
            ValueError: there is none; the message lists all.
        """
        plain = {step.name.lower().replace("_", " ").replace("-", " "): step for step in self.steps}
        found = plain.get((name or "").lower().replace("_", " ").replace("-", " "))
        if found is None:
            what = f"{name!r} is unknown" if name else "name one"
            raise ValueError(f"step: {what}; the steps are {', '.join(repr(step.name) for step in self.steps)}")
        return found

    def forget(self, step: WorkflowStep) -> list[WorkflowStep]:
        """Have a step, and all that read from it, made again by the next run. Returns these steps."""
        names, again = {step.name}, [step]
        for later in self.steps:
            if names.intersection(later.after):
                names.add(later.name)
                again.append(later)
        self._recorded |= {s.name: RERUN for s in again if s.output.exists()}
        write_json(self.output / STATE, self._recorded)
        return again

    def run(self) -> list[StepOutcome]:
        """Run what is not done.

        Raises:
            StepFailed: a job failed; the finished ones are kept, and the same call resumes with the failed one.
            ValueError: curation kept nothing; or another process is running this workflow.
        """
        # One parent run per workflow folder; the jobs' runs are its children.
        folder = self.output / "tracking"
        if set(self.states().values()) == {"done"}:
            catch_up(folder, store_beside(folder))
            return [self._skip(step) for step in self.steps]
        lock = FolderLock.take(self.output)
        with tracked(folder, self.experiment, "workflow", uri=store_beside(folder)) as run, shared_cluster() as cluster:
            for key, value in {"recipe": self.recipe, "clips": self._clips_name, **git_state()}.items():
                run.tag(key, value)
            run.wait_for_id()
            environment = cluster | {"MLFLOW_TRACKING_URI": run.uri, "MLFLOW_EXPERIMENT_NAME": self.experiment}
            if run.run_id:
                environment["LINGEN_PARENT_RUN"] = run.run_id
            outcomes = self._run(run, environment)
        del lock
        return [outcomes[step.name] for step in self.steps]

    def _run(self, run: Run, environment: dict[str, str]) -> dict[str, StepOutcome]:
        """Run what is not done; name of a step -> its outcome."""
        outcomes: dict[str, StepOutcome] = {}

        def begin(step: WorkflowStep) -> JobCommand | None:
            if self._own_state(step) != "done":
                return self._command(step, environment)
            outcomes[step.name] = self._skip(step)
            _require_clips(step)
            return None

        def finish(step: WorkflowStep, seconds: float) -> None:
            self._recorded[step.name] = self._keys.key(step)
            write_json(self.output / STATE, self._recorded)
            self._relay.say(f"  {step.name} took {clock(seconds)}")
            outcomes[step.name] = StepOutcome(step, "done", seconds)
            self._log(run, step, [outcomes[s.name] for s in self.steps if s.name in outcomes])
            _require_clips(step)

        with RunningFile(self.output) as running:
            beat = lambda: running.write(self._relay.progress())  # noqa: E731
            Scheduler(self.jobs, self._relay, begin, finish, beat).run(self.steps)
        return outcomes

    @property
    def _clips_name(self) -> str:
        return self.clips or "made by the recipe"

    def _title(self, step: WorkflowStep) -> str:
        return f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step.name}"

    def _log(self, run: Run, step: WorkflowStep, outcomes: list[StepOutcome]) -> None:
        """Log what the newest step came to, beside what there was before (both in the order of the steps)."""
        stages = [s.output for s in self.steps if s.job == "train"]
        reached = {o.step.output for o in outcomes}
        evaluated = [o.step.output for o in outcomes if o.step.job == "evaluate"]
        log_step(run, step.name, outcomes[[o.step for o in outcomes].index(step)].seconds)
        if step.output.suffix:
            run.artifact(step.output)
        if step.job == "evaluate" and step is self.steps[-1]:
            log_sheet(run, step.output)
        elif step.job == "evaluate":
            log_scores(run, step.output, [folder.name for folder in stages])
        where = redact(f"Recipe {self.recipe} in {self.output}, clips: {self._clips_name}.")
        took = [(o.step.name, clock(o.seconds) if o.state == "done" else "done before") for o in outcomes]
        log_tables(run, where, took, [folder for folder in stages if folder in reached], evaluated)

    def _skip(self, step: WorkflowStep) -> StepOutcome:
        self._relay.say(f"{self._title(step)}: done before")
        return StepOutcome(step, "skipped", 0.0)

    def _command(self, step: WorkflowStep, environment: dict[str, str]) -> JobCommand:
        """Say that a step starts, and make room for what it makes."""
        self._relay.say(f"\n{self._title(step)}\n  {shlex.join(step.command)}")
        recorded = self._recorded.get(step.name)
        if step.output.is_file() and recorded is None:
            self._relay.say(f"  {step.output} was there before; it is now {move_aside(step.output)}")
        outdated = isinstance(recorded, dict) and recorded["version"] != VERSIONS[step.job]
        if (recorded == RERUN or outdated) and not step.output.is_file():
            # The job itself would find its own settings there, and leave it as it is.
            if aside := _empty(step):
                self._relay.say(f"  {step.output} has files that are not the job's; it is now {aside}")
            del self._recorded[step.name]  # from here on an interrupted job resumes
            write_json(self.output / STATE, self._recorded)
        job = [str(ROOT / "jobs" / f"{step.job}.py"), *step.flags]
        if not step.output.suffix and step.job != "demo_clips":
            job.append("--overwrite")  # what other flags left here is replaced; what these flags began is resumed
        first_encode = next((s for s in self.steps if s.job == "encode"), None)
        said = {} if step is first_encode else {RANDOM_WEIGHTS_SAID: "1"}  # it says it for all
        return JobCommand(job, environment | said)


def _is_finished(step: WorkflowStep) -> bool:
    return step.output.is_file() if step.output.suffix else (step.output / MANIFEST).is_file()


def _empty(step: WorkflowStep) -> Path | None:
    """Remove what a step's job has written; returns where its folder is now, if anybody else's files were in it."""
    claim = read_claim(step.output)
    if claim is None or claim["job"] != step.job or step.output.is_symlink():
        return None  # the job will refuse it
    lock = FolderLock.take(step.output)
    if next(foreign_in(step.output, step.job), None) is not None:
        return move_aside(step.output)
    remove_files(step.output, FILES[step.job], keep=[CONFIG])
    del lock
    return None


def _require_clips(step: WorkflowStep) -> None:
    """ValueError, with the main reason and the flag that helps: curation kept nothing, so nothing can follow."""
    path = step.output / "summary.json"
    if step.job == "curate" and path.is_file() and not read_json(path)["kept"]:
        main_reason, _, *helps, _ = why_nothing_was_kept(step.output)
        reasons = "; ".join(printable(line.strip()) for line in (main_reason, *helps))
        raise ValueError(f"--clips: {as_typed('curate', reasons)}; every decision: {step.output}/report.html")
