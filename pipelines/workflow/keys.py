"""A step's key: all that decides its result, part by part, so that what changed can be told in words.

pipeline.json keeps the key of every finished step. Files of older versions have one digest per step instead: a step
with the same flags, inputs and clips counts as done by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lingen.io.manifest import digest, file_digest, read_json, read_manifest, to_plain
from lingen.io.redact import redacted
from pipelines.workflow.steps import WorkflowStep

VERSIONS = {
    "demo_clips": 1,
    "curate": 1,
    "train_tae": 1,
    "encode": 1,
    "train": 1,
    "evaluate": 1,
    "generate": 1,
}
"""Job -> version of its code; increment one by hand when a job makes another result of the same settings and inputs."""

RERUN = "rerun"
"""recorded in place of a key: the user wants the step made again"""

Key = dict[str, Any]
"""version, flags, settings, inputs, clips, quality"""
PARTS = {"version", "flags", "settings", "inputs", "clips", "quality"}


class KeyMaker:
    """Makes the keys of a workflow's steps, as things are now.

    Args:
        output: the workflow's folder.
        steps: all steps.
        clips: the user's folder of clips or manifest, if any.
        quality: the user's reviewed list, if any.
    """

    def __init__(self, output: Path, steps: Sequence[WorkflowStep], clips: str | None, quality: str | None):
        self._output, self._clips, self._quality = output, clips, quality
        self._steps = {step.name: step for step in steps}

    def key(self, step: WorkflowStep) -> Key:
        """The step's key; of inputs that are not finished, None."""
        stamp = self._clips_stamp() if not step.after else []
        return redacted(
            to_plain(
                {
                    "version": VERSIONS[step.job],
                    "flags": flags_by_name(self._inside(step.flags)),
                    "settings": step.settings,
                    "inputs": {name: self._input(self._steps[name]) for name in step.after},
                    "clips": {"files": len(stamp), "digest": digest(stamp)} if stamp else None,
                    "quality": self._reviewed(step),
                }
            )
        )

    def is_made_by(self, recorded: Key | str | None, step: WorkflowStep) -> bool:
        """Whether a recorded key is the step's own."""
        return recorded == (self._old_key(step) if isinstance(recorded, str) else self.key(step))

    def _old_key(self, step: WorkflowStep) -> str:
        """The digest that stood in pipeline.json before it had the parts."""
        files = self._reviewed(step) or (self._clips_stamp() if not step.after else None)
        inputs = [_key_digest(self._steps[name].output) for name in self._steps if name in step.after]
        return digest({"flags": self._inside(step.flags), "inputs": inputs, "clips": files})

    def _input(self, step: WorkflowStep) -> str | None:
        found = _key_digest(step.output)
        return found and f"{found}, version {VERSIONS[step.job]}"

    def _inside(self, flags: Sequence[str]) -> list[str]:
        """Flags, whatever the spelling of the workflow's folder."""
        inside = f"{self._output}{os.sep}"
        return [f"{{output}}/{f.removeprefix(inside)}" if f.startswith(inside) else f for f in flags]

    def _reviewed(self, step: WorkflowStep) -> str | None:
        """Digest of the user's reviewed list, for a step that trains on it."""
        return file_digest(self._quality) if self._quality is not None and "--quality" in step.flags else None

    def _clips_stamp(self) -> list[list]:
        """Changes when the user's manifest or the listing of the folder changes; curation itself hashes contents."""
        if self._clips is None or "://" in self._clips:
            return []
        path = Path(self._clips)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def read_keys(path: Path) -> dict[str, Key | str]:
    """The keys of the finished steps, from pipeline.json. ValueError: the file is not one that the workflow wrote."""
    if not path.is_file():
        return {}
    try:
        keys = read_json(path)
    except (ValueError, RecursionError):
        keys = None
    whole = isinstance(keys, dict) and all(
        isinstance(key, str) or (isinstance(key, dict) and key.keys() == PARTS) for key in keys.values()
    )
    if not whole:
        raise ValueError(f"--output: {path} is not from this workflow; choose another folder, or remove the file")
    return keys


def flags_by_name(flags: Sequence[str]) -> dict[str, list[str]]:
    """Flag -> its values, without those that say only how the work is done: workers and devices."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")
            found[name] = [value] if equals else []
        else:
            found[name].append(word)
    return {flag: values for flag, values in found.items() if not _only_how(flag)}


def _only_how(flag: str) -> bool:
    """Whether a flag changes only how, or where, the work is done."""
    parts = flag.removeprefix("--").split(".")
    return "workers" in parts or parts[-1] in ("device", "threads", "mlflow", "output")


def differences(before: Key | str | None, now: Key) -> list[str]:
    """What changed between the recorded key of a step and the present one, one text per change."""
    if before is None:
        return ["it was not made by this workflow"]
    if before == RERUN:
        return ["you asked for it (rerun)"]
    if isinstance(before, str):
        return ["an older version of the workflow made it, with other flags or inputs"]
    found = [f"{flag} {change}" for flag, change in _changes(before["flags"], now["flags"])]
    settings = _changes(_flat(before["settings"]), _flat(now["settings"]))
    found += [f"the recipe's {name} {change}" for name, change in settings]
    for name in sorted(before["inputs"].keys() | now["inputs"].keys()):
        if name not in now["inputs"]:
            found.append(f"it no longer reads what '{name}' makes")
        elif name not in before["inputs"]:
            found.append(f"it now reads what '{name}' makes")
        elif before["inputs"][name] != now["inputs"][name]:
            found.append(f"'{name}', which it reads, was made anew")
    if before["clips"] != now["clips"]:
        count = [key["clips"]["files"] if key["clips"] else 0 for key in (before, now)]
        counted = f" (files: {count[0]} before, {count[1]} now)" if count[0] != count[1] else ""
        found.append(f"the clips' files changed{counted}")
    if before["quality"] != now["quality"]:
        found.append("the reviewed list of clips changed")
    if before["version"] != now["version"]:
        found.append(f"its job's code makes another result since version {now['version']}")
    return found


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and change, for every value that differs."""
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            yield name, f"is gone (it was {_shown(before[name])})"
        elif name not in before:
            yield name, f"is new ({_shown(now[name])})"
        elif before[name] != now[name]:
            yield name, f"was {_shown(before[name])} and is {_shown(now[name])}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) or "set" if isinstance(value, list) else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _key_digest(output: Path) -> str | None:
    """Digest of the key of a finished output folder; None when it is not finished."""
    manifest = read_manifest(output)
    return digest(manifest["key"]) if manifest else None
