"""Flags of single jobs on the workflow's command line: --curate.license.assume CC0-1.0 is curate's --license.assume.

They replace what the recipe says, are part of their step's key, and are checked by their job's own parser before work.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.cli import parse
from pipelines.recipes import find_stage

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

JOBS = ("demo_clips", "curate", "train_tae", "encode", "train", "evaluate", "generate")
SET_BY_THE_WORKFLOW = frozenset(
    [
        *("--input", "--output", "--curated", "--tae", "--shards", "--stage", "--init", "--quality"),
        *("--checkpoint", "--checkpoints", "--stages", "--scored", "--overwrite", "--estimate", "--what-if"),
    ]
)

JobFlags = Mapping[str, tuple[str, ...]]
"""Job -> its flags, without the job's name."""


def gather(arguments: Sequence[str]) -> list[str]:
    """Arguments in which all flags of jobs are the text of one --flags, for a parser that does not know them.

    What follows a flag up to the next one belongs to it. A --flags that is there already may have any flags.
    """
    rest: list[str] = []
    of_jobs: list[str] = []
    target = rest
    for word in _unpacked(arguments):
        if word.startswith("--"):
            target = of_jobs if _job_and_flag(word) else rest
        target.append(word)
    return [*rest, f"--flags={shlex.join(of_jobs)}"] if of_jobs else rest


def read_flags(text: str) -> JobFlags:
    """The flags in a text, by job.

    Raises:
        ValueError: a word belongs to no job, or to what the workflow itself sets.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        raise ValueError(f"--flags: a quote in {text!r} is not closed") from None
    found: dict[str, list[str]] = {}
    target: list[str] | None = None
    for word in words:
        if word.startswith("--"):
            named = _job_and_flag(word)
            target = found.setdefault(named[0], []) if named else None
            word = named[1] if named else word
            if named and _name(word) in SET_BY_THE_WORKFLOW:
                job, flag = named[0], _name(word).removeprefix("--")
                alone = f"to set it yourself, run jobs/{job}.py alone, as the action plan shows"
                raise ValueError(f"--{job.replace('_', '-')}.{flag}: the workflow sets it; {alone}")
        if target is None:
            names = ", ".join(job.replace("_", "-") for job in JOBS)
            raise ValueError(f"--flags: {word} is no flag of a job; write --JOB.FLAG VALUE, with JOB one of {names}")
        target.append(word)
    return {job: tuple(flags) for job, flags in found.items()}


def with_flags(flags: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """`flags`, with `more` in place of those of the same names."""
    replaced = {_name(word) for word in more if word.startswith("--")}
    kept: list[str] = []
    keep = True
    for word in flags:
        if word.startswith("--"):
            keep = _name(word) not in replaced
        if keep:
            kept.append(word)
    return (*kept, *more)


def check_flags(
    commands: Iterable[tuple[str, Sequence[str]]],
    flags: JobFlags,
    settings: Callable[[str], type[DataclassInstance] | None],
) -> None:
    """Let the jobs' parsers read the commands that got flags.

    Args:
        commands: job and all its flags, for each step.
        flags: what was added to them.
        settings: a job's dataclass; None for a job that checks its flags only when it starts.

    Raises:
        ValueError: a flag is unknown, or its value is refused; the message names it as the user wrote it.
    """
    unused = set(flags)
    for job, command in commands:
        unused.discard(job)
        config = settings(job) if job in flags else None
        if config is None:
            continue
        try:
            parse(config, command, _defaults(job, command))
        except ValueError as error:
            raise ValueError(as_typed(job, str(error))) from None
    for job in unused:
        raise ValueError(f"--{job.replace('_', '-')}.*: this workflow has no step that runs jobs/{job}.py")


def as_typed(job: str, text: str) -> str:
    """What a job says, with its flags as they are on the workflow's command line."""
    return re.sub(r"(?<![\w-])--(?=[a-z])", f"--{job.replace('_', '-')}.", text)


def _unpacked(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the words of a --flags in its place; one with an open quote stays for `read_flags`."""
    words: list[str] = []
    packed = False
    for argument in arguments:
        if argument == "--flags" and not packed:
            packed = True
            continue
        text = argument if packed else argument.removeprefix("--flags=")
        if not packed and text == argument:
            words.append(argument)
            continue
        packed = False
        try:
            words += shlex.split(text)
        except ValueError:
            words.append(f"--flags={text}")
    return [*words, "--flags"] if packed else words


def _job_and_flag(word: str) -> tuple[str, str] | None:
    """The job and its own flag in --JOB.FLAG."""
    job, dot, flag = word.removeprefix("--").partition(".")
    job = job.replace("-", "_")
    return (job, f"--{flag}") if dot and job in JOBS else None


def _name(word: str) -> str:
    """A flag without its value, however it is spelled."""
    return word.partition("=")[0].replace("_", "-")


def _defaults(job: str, command: Sequence[str]) -> dict[str, Any]:
    """Defaults that depend on other flags: the settings of a stage."""
    if job != "train":
        return {}
    return {"fit": find_stage(command[command.index("--stage") + 1])[1].fit}
