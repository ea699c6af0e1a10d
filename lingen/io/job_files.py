"""The files that each job writes into its output folder, so that whoever replaces or removes one deletes nothing else.

A name that is not in FILES is foreign: somebody put it there. A job that writes a new file lists it here; until then
`--overwrite` moves its folders aside instead of emptying them, which loses nothing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

CHECKPOINT_FILES = ("meta.json", ".metadata", ".metadata.tmp", "__*.distcp")
"""What torch and we write into the folder of one checkpoint."""

_FOLDER = (
    "config.json",
    "manifest.json",
    *(f"tracking/{name}" for name in ("run.json", "metrics.jsonl", "artifacts.jsonl", "first_start.json")),
    "tracking/samples/*_????????.png",
    "tracking/samples/*_????????_*.mp4",
)
_CHECKPOINTS = tuple(
    f"checkpoints/{folder}/{name}"
    for folder in ("step_????????", ".step_????????.part", "damaged_step_????????")
    for name in CHECKPOINT_FILES
)
_TAE = ("tae.json", "tae.safetensors")
_TREES = tuple(f"{tree}/{name}" for tree in ("latents/*", "text/*/*") for name in ("??????.tar", "index.parquet"))

PART_FILES = tuple(f"{tree}/??????.{kind}" for tree in ("latents/*", "text/*/*") for kind in ("json", "in_hand"))
"""What encoding writes into parts/ until it is finished."""

FILES: dict[str, tuple[str, ...]] = {
    "demo_clips": (
        *_FOLDER,
        "manifest.csv",
        "videos/??_*.mp4",
        "videos/???_*.mp4",
        "photos/??_*.jpg",
        "scenes/????.mp4",
        "scenes/????.jpg",
        *(f"bad/{name}.mp4" for name in ("still", "dark", "unlicensed", "noncommercial", "truncated", "noise")),
    ),
    "curate": (
        *_FOLDER,
        *(f"{name}.parquet" for name in ("clips", "scores", "ledger", "quality")),
        "quality.csv",
        "report.html",
        "summary.json",
    ),
    "encode": (
        *_FOLDER,
        "errors.parquet",
        *(f"tae/{name}" for name in _TAE),
        *_TREES,
        *(f"parts/{n}" for n in PART_FILES),
    ),
    "evaluate": (*_FOLDER, "evaluation.json", "answers.npz", "sheet.png"),
    "train_tae": (
        *_FOLDER,
        *_TAE,
        *_CHECKPOINTS,
        "held_out.json",
        "pixels/index.json",
        "pixels/*.npy",
        "ray/train_tae-*/**",
        "stop",
    ),
    "train": (
        *_FOLDER,
        *_CHECKPOINTS,
        *(f"model/{name}" for name in ("config.json", "raw.safetensors", "ema.safetensors")),
        *(f"model/tae/{name}" for name in _TAE),
        "prompts.safetensors",
        "ray/train-*/**",
        "samples/?????.jsonl",
        "skipped.jsonl",
        "stalled/rank*.json",
        "stop",
    ),
}
"""Job -> patterns of paths below its output folder; a `**` at the end is whatever lies below."""

WORKFLOW_FILES = (
    "pipeline.json",
    "running.json",
    "sample.mp4",
    "mlflow.db",
    "mlflow.db-*",
    "mlartifacts/lingen-*/**",
    "curated.store/*/**",
    *(name for name in _FOLDER if name.startswith("tracking/")),
    "tracking/overview.md",
)
"""What the workflow writes beside the folders of its jobs."""


def foreign_files(folder: Path, patterns: Sequence[str], skip: Collection[str] = ()) -> Iterator[str]:
    """Yield the relative path of everything that fits no pattern, except folders. Links are not followed.

    Args:
        folder: where to look.
        patterns: as in FILES.
        skip: relative paths of folders that are not looked into.
    """
    ours = _matcher(patterns)
    for parent, folders, files, fd in os.fwalk(folder, onerror=_raise):
        inside = os.path.relpath(parent, folder)
        for name in [*files, *(name for name in folders if _is_link(name, fd))]:
            path = os.path.normpath(f"{inside}/{name}")
            if not ours(path):
                yield path
        folders[:] = [name for name in folders if os.path.normpath(f"{inside}/{name}") not in skip]


def remove_files(folder: Path, patterns: Sequence[str], keep: Collection[str] = ()) -> None:
    """Remove what fits the patterns, then the folders inside that are empty; links are removed, not followed.

    Whatever else is there stays, even if it came only now. The manifest goes first: a kill in the middle leaves no
    folder that seems finished.

    Args:
        folder: stays, even if it is empty then.
        patterns: as in FILES.
        keep: relative paths that stay although they fit.
    """
    ours = _matcher(patterns)
    if ours("manifest.json"):
        (folder / "manifest.json").unlink(missing_ok=True)
    for parent, folders, files, fd in os.fwalk(folder, topdown=False, onerror=_raise):
        inside = os.path.relpath(parent, folder)
        links = {name for name in folders if _is_link(name, fd)}
        for name in [*files, *links]:
            path = os.path.normpath(f"{inside}/{name}")
            if ours(path) and path not in keep:
                os.unlink(name, dir_fd=fd)
        for name in set(folders) - links:
            try:
                os.rmdir(name, dir_fd=fd)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise


def move_aside(path: Path) -> Path:
    """Rename a file or folder to NAME.replaced-DATE-TIME beside it. Returns the new path.

    Raises:
        ValueError: the working folder is in it: a shell there would write into what was moved away.
    """
    path = path.absolute()
    if Path.cwd().is_relative_to(path.resolve()):
        raise ValueError(f"--output: {path} cannot be replaced from inside; change to another folder first")
    name = f"{path.name}.replaced-{time.strftime('%Y%m%d-%H%M%S')}"
    aside, count = path.with_name(name), 1
    while os.path.lexists(aside):
        count += 1
        aside = path.with_name(f"{name}-{count}")
    return path.rename(aside)


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a relative path fits one of the patterns, or is the hidden file that one of them is written to first."""
    found = re.compile("|".join(map(_regex, patterns)), re.DOTALL)
    return lambda path: found.fullmatch(path) is not None


def _regex(pattern: str) -> str:
    *folders, name = (re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") for part in pattern.split("/"))
    file = ".*" if pattern.endswith("/**") else rf"(?:{name}|\.{name}(?:\.[^/]*)?)"
    return "/".join([*folders, file])


def _is_link(name: str, fd: int) -> bool:
    return stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode)


def _raise(error: OSError) -> None:
    raise error
