"""Remove a workflow's folder, if there is nothing else in it: make clean, or OUT=FOLDER python -m pipelines.clean."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from lingen.io.disk_errors import explain
from lingen.io.job_files import FILES, WORKFLOW_FILES, foreign_files, remove_files
from lingen.io.manifest import CONFIG, foreign_in, read_claim
from pipelines.cli import fail


def clean(output: Path) -> None:
    """Remove the folder of a workflow: its jobs' folders, the measurements and MLflow's store.

    Raises:
        ValueError: anything else is in it, or it is a link; nothing is removed then.
    """
    folders = {path: claim["job"] for path in _subfolders(output) if (claim := read_claim(path)) is not None}
    known = folders or any((output / name).is_file() for name in ("pipeline.json", "tracking/run.json"))
    if output.is_symlink() or not known:
        raise ValueError(f"OUT: {output} is no folder that the demo made")
    if found := list(itertools.islice(_foreign(output, folders), 4)):
        names = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise ValueError(f"OUT: {output} has files that the demo did not write ({names}); nothing is removed")
    for path, job in folders.items():
        remove_files(path, FILES[job], keep=[CONFIG])
        (path / CONFIG).unlink()  # last: what a kill leaves is still known as the job's
        path.rmdir()
    remove_files(output, WORKFLOW_FILES, keep=["pipeline.json"])
    (output / "pipeline.json").unlink(missing_ok=True)
    output.rmdir()


def _foreign(output: Path, folders: Mapping[Path, str]) -> Iterator[str]:
    """Yield the relative paths of what neither the workflow nor its jobs (folder -> job) wrote."""
    yield from foreign_files(output, WORKFLOW_FILES, skip=[str(path.relative_to(output)) for path in folders])
    for path, job in folders.items():
        yield from (str(path.relative_to(output) / name) for name in foreign_in(path, job))


def _subfolders(output: Path) -> list[Path]:
    """Where the workflow puts its jobs' outputs; links are not followed."""
    above = [output, output / "runs", output / "scores"]
    return [p for a in above if a.is_dir() and not a.is_symlink() for p in sorted(a.iterdir()) if not p.is_symlink()]


def main() -> None:
    """Remove the folder that the environment variable OUT names; without it there is nothing to do."""
    output = os.environ.get("OUT", "")
    if not output:
        fail("OUT: name the folder to remove")
    if not os.path.lexists(output):
        return
    try:
        clean(Path(output))
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        if (found := explain(error)) is None:
            raise
        fail(*found)
    print(f"removed {output}")


if __name__ == "__main__":
    main()
