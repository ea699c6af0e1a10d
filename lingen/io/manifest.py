"""manifest.json: the only sign that an output folder is finished, and the record of what it was made from.

A job opens its output with `OutputFolder.open`, works, and publishes last. So a folder is either *finished*
(manifest.json), *started* (config.json alone: the same command resumes it) or *free*. The same key (configuration and
digests of the inputs) resumes or skips; another key is refused, so that two settings never mix in one folder.

`--overwrite` empties a folder only if the same job made it and nothing else is in it. Deleting rather than keeping is
for the size of checkpoints and latents; a folder with anything else in it, such as notes or a reviewed quality.csv, is
renamed to NAME.replaced-DATE-TIME as a whole, and what another job or a person made is refused.

Two processes with one folder would double its reports: the second is refused while the first has its `OutputFolder`.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lingen.io.folder_lock import FolderLock
from lingen.io.job_files import FILES, foreign_files, move_aside, remove_files
from lingen.io.redact import redacted

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CONFIG = "config.json"


def to_plain(value: Any) -> Any:
    """Convert dataclasses, paths, tuples and sets to JSON values; sets are sorted, so that equal sets hash equally."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(to_plain(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value


def digest(value: Any) -> str:
    """16 hex digits of the SHA-256 of a value that `to_plain` converts; the order of keys does not matter."""
    text = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """16 hex digits of the SHA-256 of a file's content."""
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()[:16]


def write_atomic(path: str | Path, data: bytes | str | Iterator[bytes]) -> None:
    """Write a file, whole or piece by piece: readers, and a kill at any moment, leave the old content or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, tmp = create_partial(path)
    try:
        with os.fdopen(fd, "wb") as f:
            for piece in [data] if isinstance(data, (bytes, str)) else data:
                f.write(piece.encode() if isinstance(piece, str) else piece)
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


def create_partial(path: Path) -> tuple[int, Path]:
    """Create a hidden file beside `path`, to be renamed to it once it is whole. Returns (descriptor, where it is).

    Its mode is what the user's umask leaves; tempfile's would hide outputs from colleagues.
    """
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        return os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), tmp
    except OSError as error:  # about the name that the user knows
        raise OSError(error.errno, error.strerror, str(path)) from None


def check_writable(path: str | Path) -> None:
    """Find out before hours of work whether a file can be written; creates its folder.

    Raises:
        OSError: it cannot.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    fd, tmp = create_partial(path)
    os.close(fd)
    tmp.unlink()


def write_json(path: str | Path, value: Any) -> None:
    """Write a value that `to_plain` converts as JSON, atomically; secrets in its URIs become ***."""
    write_atomic(path, json.dumps(redacted(to_plain(value)), indent=2, sort_keys=True) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(path).read_text())


def whole_lines(path: str | Path) -> list[bytes]:
    """The lines of a file that is appended to, with line ends; a last line that a kill cut off is removed from it."""
    path = Path(path)
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(path, len(whole))  # not written anew: a kill would lose all lines
    return whole.splitlines(keepends=True)


def read_claim(folder: str | Path) -> dict[str, Any] | None:
    """The config.json of an output folder; None when there is none, or none that `OutputFolder` wrote."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        return None
    try:
        claim = read_json(path)
    except (ValueError, RecursionError):
        return None
    types = {"job": str, "key": str, "config": dict, "inputs": dict}
    if not isinstance(claim, dict) or claim.keys() != types.keys():
        return None
    if not all(isinstance(claim[name], kind) for name, kind in types.items()):
        return None
    content = {name: value for name, value in claim.items() if name != "key"}
    return claim if claim["key"] == digest(content) else None


def foreign_in(folder: Path, job: str) -> Iterator[str]:
    """Yield the relative paths of what is in a job's output folder, but not as the job wrote it."""
    yield from foreign_files(folder, FILES.get(job, ()))
    try:
        outputs = dict((read_manifest(folder) or {"outputs": {}})["outputs"])
    except (ValueError, TypeError, KeyError, RecursionError):
        yield f"{MANIFEST}, damaged"
        return
    for name, written in outputs.items():
        if (folder / name).is_file() and written != file_digest(folder / name):
            yield f"{name}, changed since"


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of an output folder, or None when it is not finished."""
    path = Path(folder) / MANIFEST
    return read_json(path) if path.is_file() else None


def require_manifest(folder: str | Path, job: str, field: str) -> dict[str, Any]:
    """The manifest of a finished output folder of a certain job.

    Args:
        folder: the output folder.
        job: name of the job, without .py.
        field: what the user set, for error messages.

    Raises:
        ValueError: the folder is not finished, or another job wrote it.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ValueError(f"{field}: {folder} has no {MANIFEST}; run jobs/{job}.py to its end first, or fix the path")
    if manifest["job"] != job:
        raise ValueError(f"{field}: {folder} was written by jobs/{manifest['job']}.py, not by jobs/{job}.py")
    return manifest


@dataclasses.dataclass(frozen=True)
class OutputFolder:
    """A job's output folder, claimed for one key, and locked as long as this object lives."""

    path: Path
    job: str
    """name without .py"""
    config: dict[str, Any]
    """JSON values: all that decides the content"""
    inputs: dict[str, Any]
    """name -> digest"""
    lock: FolderLock = dataclasses.field(repr=False, compare=False)

    @classmethod
    def open(
        cls, path: str | Path, job: str, config: Any, inputs: dict[str, Any], overwrite: bool = False
    ) -> OutputFolder:
        """Claim a folder for a job and its key.

        Args:
            path: the folder; need not exist.
            job: name of the job, without .py.
            config: all that decides the content, not what does not (worker counts).
            inputs: name -> digest.
            overwrite: replace what this job left there with another key: emptied if nothing else is in it, else
                moved aside.

        Raises:
            ValueError: the folder belongs to another key (the first difference is named) and `overwrite` is off; it is
                none of this job's; or another process is writing it.
        """
        if os.path.lexists(path) and not Path(path).is_dir():
            raise ValueError(f"--output: {path} is not a folder; name one")
        lock = FolderLock.take(Path(path))
        folder = cls(Path(path), job, redacted(to_plain(config)), redacted(to_plain(inputs)), lock)
        before = read_claim(path)
        if before is not None and before["key"] == folder.key:
            return folder
        if before is not None and not overwrite:
            raise ValueError(
                f"--output: {path} holds a run with other settings ({folder._difference(before)}); "
                "choose another --output, or add --overwrite to replace it"
            )
        if before is not None:
            folder = folder._replace(before)
        elif folder.path.exists() and any(folder.path.iterdir()):
            raise ValueError(f"--output: {path} is not empty and was not made by this job; choose another folder")
        claim = {"job": job, "key": folder.key, "config": folder.config, "inputs": folder.inputs}
        write_json(folder.path / CONFIG, claim)
        return folder

    @property
    def key(self) -> str:
        """Digest of job, configuration and inputs."""
        return digest({"job": self.job, "config": self.config, "inputs": self.inputs})

    @property
    def finished(self) -> bool:
        """Whether the job has published."""
        return read_manifest(self.path) is not None

    def publish(self, outputs: dict[str, Any], started: float | None = None) -> dict[str, Any]:
        """Write manifest.json, the last file of the job.

        Args:
            outputs: file name -> digest, and counts worth keeping.
            started: when the job started, seconds since the epoch; None leaves the duration out.

        Returns:
            The manifest.
        """
        manifest: dict[str, Any] = {
            "job": self.job,
            "key": self.key,
            "config": self.config,
            "inputs": self.inputs,
            "outputs": outputs,
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if started is not None:
            manifest["seconds"] = round(time.time() - started, 1)
        write_json(self.path / MANIFEST, manifest)
        return manifest

    def _replace(self, before: dict[str, Any]) -> OutputFolder:
        """Make room for this key where another one was. Returns the folder, with the lock of what is there now.

        Raises:
            ValueError: this job did not make the folder, or the path is a link to it.
        """
        if before["job"] != self.job:
            made = f"was made by jobs/{before['job']}.py, not by jobs/{self.job}.py"
            raise ValueError(f"--output: {self.path} {made}: it is not replaced; choose another folder")
        if self.path.is_symlink():
            raise ValueError(f"--output: {self.path} is a link; name the folder itself to replace it")
        if foreign := list(itertools.islice(foreign_in(self.path, self.job), 4)):
            names = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            aside = move_aside(self.path)
            log.warning(
                "%s has files that jobs/%s.py did not write (%s): it is now %s", self.path, self.job, names, aside
            )
            return dataclasses.replace(self, lock=FolderLock.take(self.path))
        # The claim stays until the new one is written over it: killed in between, the same command goes on here.
        remove_files(self.path, FILES[self.job], keep=[CONFIG])
        return self

    def _difference(self, before: dict[str, Any]) -> str:
        if before.get("job") != self.job:
            return f"made by jobs/{before.get('job')}.py"
        for part in ("config", "inputs"):
            name, old, new = _first_difference(before.get(part, {}), getattr(self, part))
            if name:
                return f"{name}: {old} there, {new} now"
        return "unknown difference"


def _first_difference(old: Any, new: Any, name: str = "") -> tuple[str, Any, Any]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            found = _first_difference(old.get(key), new.get(key), f"{name}.{key}" if name else key)
            if found[0]:
                return found
        return "", None, None
    return (name, old, new) if old != new else ("", None, None)
